// The iPXE script of a node: what a decision looks like to an iPXE, refusals included.
import type { BootDecision } from './decide.ts';
import type { BootSet } from './profile.ts';
import type { ExitMethod, Node } from './node.ts';
import type { Machine } from './request.ts';
import { stageWords } from './session.ts';
import type { Boot } from './timeline.ts';
import { blobPath, loaderName, loaderPath, scriptPath, UKI_FILE } from './urls.ts';
import type { Digest } from '../digest.ts';
import type { Mac } from '../addr.ts';

export interface ScriptFor {
  readonly mac: Mac;
  /** `http://10.77.0.1:8080`: as the machine itself reached us. */
  readonly baseUrl: string;
  /** Where kernel and initrds come from, if not from us: `https://cdn.example/rackseed`, for an iPXE that can fetch from there. */
  readonly publicBase?: string;
  readonly node?: string;
  readonly profile?: string;
  readonly bootId?: string;
}

/** How long a script waits before it tries again after its own fetch failed, in seconds. */
const FETCH_RETRY_S = 5;

/**
 * Never anything but a script: an iPXE shows neither JSON nor an HTTP status to the person in front of the machine.
 * `bootSet` belongs to a `boot` decision.
 */
export function renderScript(decision: BootDecision, bootSet: BootSet | undefined, to: ScriptFor): string {
  switch (decision.kind) {
    case 'boot':
      return bootSet && to.bootId ? bootScript(bootSet, to, to.bootId) : holdScript('RS-HOLD', 'the boot set is gone', FETCH_RETRY_S, to);
    case 'local':
      return lines(`echo rackseed: RS-LOCAL: ${printable(decision.why)}`, ...leave(decision.exit));
    case 'hold':
      return holdScript('RS-HOLD', decision.why, decision.retryAfterS, to, decision.hint);
    case 'loader':
      if (decision.file === UKI_FILE) return ukiScript(to);
      // It runs a script already, so a loader is no news to it; the DHCP side is what hands loaders out.
      return holdScript('RS-LOADER', `this iPXE shall load ${decision.file} first`, FETCH_RETRY_S, to);
    case 'silent':
      return lines(`echo rackseed: RS-SILENT: ${printable(decision.why)} (${to.mac})`, 'sleep 10', 'exit 1');
  }
}

/** What an iPXE is told when we failed to find an answer: it waits, where an HTTP error would make it fall to the next boot device. */
export function renderTrouble(to: ScriptFor): string {
  return holdScript('RS-ERROR', 'the daemon could not answer, its log says why', FETCH_RETRY_S, to);
}

/**
 * To the disk, by firmware, which the iPXE itself knows best: a boot that is not ours has no record of its machine. UEFI goes on with the next boot option after an
 * error only, and to its menu after a success (UEFI 2.10, 3.1.2); a BIOS goes on after either.
 */
function leave(exit: ExitMethod): string[] {
  if (exit === 'exit') return ['iseq ${platform} efi || exit 0', 'exit 1'];
  // UEFI counts local disks from 0, in an iPXE of 2024 or later; an older one knows no such drive and goes the way of exit.
  const file = exit === 'sanboot' ? '' : ` --filename ${efiPath(exit)}`;
  return ['iseq ${platform} efi && goto efi ||', 'sanboot --no-describe --drive 0x80 || exit 0', ':efi', `sanboot --no-describe --drive 0${file} || exit 1`];
}

/** As UEFI writes paths, from the root of the file system. */
function efiPath(file: string): string {
  return `\\${file.replace(/[\\/]+/g, '\\').replace(/^\\/, '')}`;
}

function bootScript(bootSet: BootSet, to: ScriptFor, bootId: string): string {
  const { baseUrl } = to;
  const { image } = bootSet;
  const initrds = image.initrds.map((initrd, index) => ({ name: `initrd${index}`, digest: initrd.digest }));
  /** One line: from there, or else from us, or else all of it again. The boot's id would make each node's URL another one to a cache. */
  const fetching = (words: string, digest: Digest, args = ''): string =>
    [...(to.publicBase === undefined ? [] : [to.publicBase + blobPath(digest)]), baseUrl + blobPath(digest, bootId)].map((url) => `${words} ${url}${args} || `).join('') + 'goto retry';
  // netX is the card that iPXE opened last, the booting one; net0 can be another (TRAPS 1.9).
  const cmdline = [
    // UEFI kernels find their initrds by name only.
    ...initrds.map((initrd) => `initrd=${initrd.name}`),
    `rackseed=${baseUrl}`,
    `rackseed.boot=${bootId}`,
    `ip=\${netX/ip}::\${netX/gateway}:\${netX/netmask}:${to.node ?? ''}::off:\${netX/dns}`,
    'BOOTIF=01-${netX/mac:hexhyp}',
    ...stageWords(bootSet),
    ...bootSet.cmdline,
  ];
  return lines(
    `echo rackseed: node ${to.node ?? '?'}, profile ${to.profile ?? '?'}, image ${image.name}, boot ${bootId}`,
    fetching('kernel --name kernel', image.kernel.digest, ` ${cmdline.join(' ')}`),
    ...initrds.map(({ name, digest }) => fetching(`initrd --name ${name}`, digest)),
    'boot || goto retry',
    ':retry',
    `echo rackseed: RS-FETCH: kernel or initrd did not start, asking again in ${FETCH_RETRY_S} s`,
    'imgfree',
    `sleep ${FETCH_RETRY_S}`,
    `chain --replace ${baseUrl}${scriptPath(to.mac)} || goto retry`,
  );
}

/** An iPXE of a node with `loader: uki`: it starts the program as the firmware would. */
function ukiScript({ baseUrl, mac }: ScriptFor): string {
  return lines(
    'echo rackseed: RS-UKI: kernel, initrd and command line in one file',
    `chain ${baseUrl}${loaderPath(loaderName(UKI_FILE, mac))} ||`,
    `echo rackseed: RS-FETCH: the UKI did not start, asking again in ${FETCH_RETRY_S} s`,
    `sleep ${FETCH_RETRY_S}`,
    `chain --replace ${baseUrl}${scriptPath(mac)} || reboot`,
  );
}

function holdScript(code: string, why: string, retryAfterS: number, to: ScriptFor, hint?: string): string {
  return lines(
    ':again',
    `echo rackseed: ${code}: ${printable(why)}; asking again in ${retryAfterS} s`,
    ...(hint === undefined ? [] : [`echo rackseed: ${printable(hint)}`]),
    `sleep ${retryAfterS}`,
    // Only a DISCOVER starts a boot: a machine that has none, because no profile named it, is known anew by asking again.
    ...(to.bootId ? [] : ['dhcp netX || goto again']),
    `chain --replace ${to.baseUrl}${scriptPath(to.mac)} || goto again`,
  );
}

/** A reason as an echo may carry it: iPXE expands `${...}`, chains commands with `||`, `&&` and `;`, and a newline ends one. */
function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]|[$|&;#]/g, '?');
}

function lines(...commands: string[]): string {
  return ['#!ipxe', ...commands, ''].join('\n');
}

/** The script that answers a machine, by HTTP and by TFTP. `baseUrl`: of our HTTP server, as this machine reaches it. */
export function scriptFor(
  { decision, bootSet, node, boot }: { readonly decision: BootDecision; readonly bootSet?: BootSet; readonly node?: Node; readonly boot?: Boot },
  { mac, baseUrl, publicBase }: { readonly mac: Mac; readonly baseUrl: string; readonly publicBase?: string | undefined },
): string {
  return renderScript(decision, bootSet, {
    mac,
    baseUrl,
    ...(reachable(publicBase, boot?.machine) ? { publicBase } : {}),
    ...(node ? { node: node.name } : {}),
    ...(boot ? { bootId: boot.id, profile: boot.profile } : {}),
  });
}

/** Whether this machine's iPXE can fetch from there: one that does not list https in DHCP option 175 is not sent to it. */
export function reachable(publicBase: string | undefined, machine: Machine | undefined): publicBase is string {
  return publicBase !== undefined && (publicBase.startsWith('http:') || machine?.features?.includes('https') === true);
}
