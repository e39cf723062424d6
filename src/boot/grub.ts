// GRUB's configuration of a node: the same decision as the iPXE script's (ipxe.ts), in GRUB's own shell. Pure.
import { macDashes, type Mac } from '../addr.ts';
import type { BootDecision } from './decide.ts';
import { HOLD_S } from './hold.ts';
import type { ExitMethod, Node } from './node.ts';
import type { BootSet } from './profile.ts';
import { stageWords } from './session.ts';
import type { Boot } from './timeline.ts';
import { blobPath, GRUB_CFG, TFTP_INITRD, TFTP_KERNEL, tftpPath } from './urls.ts';

export interface GrubFor {
  readonly mac: Mac;
  /** `http://10.77.0.1:8080`: of our HTTP server, as the machine reaches it; for the initrd stage. */
  readonly baseUrl: string;
  /** How GRUB came here, and so how it fetches all else: its `$root` is that server. */
  readonly via: 'tftp' | 'http';
  readonly node?: string;
  readonly profile?: string;
  readonly bootId?: string;
}

/** How long GRUB waits before it asks again after a configuration that led nowhere, in seconds. */
const RETRY_S = 5;

/**
 * The same for all machines: GRUB asks for one name, and knows its own MAC. A loop, because a configuration that called the next one would take some of the
 * stack with it each time; it never ends, because behind it is a prompt.
 */
export const GRUB_ROOT_CFG = [
  'while true; do',
  `  source /$net_default_mac/${GRUB_CFG}`,
  `  sleep ${RETRY_S}`,
  'done',
  '',
].join('\n');

/** A configuration that ends is asked for again by GRUB_ROOT_CFG. `bootSet` belongs to a `boot` decision. */
export function renderGrub(decision: BootDecision, bootSet: BootSet | undefined, to: GrubFor): string {
  switch (decision.kind) {
    case 'boot':
      return bootSet && to.bootId ? bootCfg(bootSet, to, to.bootId) : holdCfg('RS-HOLD', 'the boot set is gone', RETRY_S, to);
    case 'local':
      return lines(say('RS-LOCAL', decision.why), ...leave(decision.exit));
    case 'hold':
      return holdCfg('RS-HOLD', decision.why, decision.retryAfterS, to, decision.hint);
    case 'loader':
      return holdCfg('RS-LOADER', `this GRUB is not what the machine shall load, which is ${decision.file}`, RETRY_S, to);
    case 'silent':
      return lines(say('RS-SILENT', `${decision.why} (${to.mac})`), ...startOver());
  }
}

/** What GRUB is told when we failed to find an answer: it waits. */
export function renderGrubTrouble(): string {
  return lines(say('RS-ERROR', `the daemon could not answer, its log says why; asking again in ${2 * RETRY_S} s`), `sleep ${RETRY_S}`);
}

/** The configuration that answers a machine, by HTTP and by TFTP. */
export function grubFor({ decision, bootSet, node, boot }: { readonly decision: BootDecision; readonly bootSet?: BootSet; readonly node?: Node; readonly boot?: Boot }, to: Pick<GrubFor, 'mac' | 'baseUrl' | 'via'>): string {
  return renderGrub(decision, bootSet, { ...to, ...(node ? { node: node.name } : {}), ...(boot ? { bootId: boot.id, profile: boot.profile } : {}) });
}

/** GRUB's `linux` writes a backslash before each of these (lib/cmdline.c), which the kernel takes for a part of the value. */
export function garbledByGrub(cmdline: readonly string[]): string | undefined {
  return cmdline.find((entry) => /["'\\]/.test(entry));
}

export function garbledWords(entry: string): string {
  return `cmdline: ${entry} would reach the kernel with backslashes: GRUB writes one before quotes and backslashes`;
}

function bootCfg(bootSet: BootSet, to: GrubFor, bootId: string): string {
  const { image, cmdline } = bootSet;
  const garbled = garbledByGrub(cmdline);
  if (garbled !== undefined) {
    // As a machine without a boot: this one's boot set is fixed, and asking again would never end.
    const { bootId: _, ...anew } = to;
    return holdCfg('RS-HOLD', garbledWords(garbled), HOLD_S, anew);
  }
  // By TFTP all initrds are one file, and the machine is in the name; both as paths of the server that GRUB came from.
  const [kernel, initrds] =
    to.via === 'tftp'
      ? [`/${tftpPath(to.mac, TFTP_KERNEL)}`, [`/${tftpPath(to.mac, TFTP_INITRD)}`]]
      : [blobPath(image.kernel.digest, bootId), image.initrds.map(({ digest }) => blobPath(digest, bootId))];
  // No `ip=`: GRUB knows neither mask nor gateway of its lease. The initrd stage asks DHCP for what the command line does not say, by the card that booted.
  const words = [`rackseed=${to.baseUrl}`, `rackseed.boot=${bootId}`, `BOOTIF=01-${macDashes(to.mac)}`, ...stageWords(bootSet), ...cmdline];
  return lines(
    `echo ${grubQuoted(`rackseed: node ${to.node ?? '?'}, profile ${to.profile ?? '?'}, image ${image.name}, boot ${bootId}`)}`,
    `if linux ${[kernel, ...words].map(grubQuoted).join(' ')}; then`,
    `  if initrd ${initrds.map(grubQuoted).join(' ')}; then boot; fi`,
    'fi',
    say('RS-FETCH', `kernel or initrd did not start, asking again in ${RETRY_S} s`),
  );
}

/** A machine whose boot is not open must send a DISCOVER, for nothing else starts one: it begins anew. */
function holdCfg(code: string, why: string, retryAfterS: number, to: GrubFor, hint?: string): string {
  return lines(
    say(code, `${why}; ${to.bootId ? 'asking again' : 'starting over'} in ${retryAfterS} s`),
    ...(hint === undefined ? [] : [`echo ${grubQuoted(`rackseed: ${hint}`)}`]),
    `sleep ${Math.max(retryAfterS - RETRY_S, 1)}`,
    ...(to.bootId ? [] : ['reboot']),
  );
}

/** A disk's program that firmware starts by itself, by GRUB's own processor: firmware of 32 bits starts no other (UEFI 2.10, 3.5.1.1). */
const REMOVABLE = ['set file=/EFI/BOOT/BOOTX64.EFI', 'if [ "$grub_cpu" = i386 ]; then set file=/EFI/BOOT/BOOTIA32.EFI; fi'];

/**
 * To the disk: by a program of its EFI system partition, or by starting over, for such a machine is given no boot file. Not by `exit`: UEFI takes that for a success and
 * shows its menu (2.10, 3.1.2; seen with OVMF).
 */
function leave(exit: ExitMethod): string[] {
  if (exit === 'exit') return startOver();
  const file = exit === 'sanboot' ? REMOVABLE : [`set file=${grubQuoted(`/${exit.replace(/[\\/]+/g, '/').replace(/^\//, '')}`)}`];
  return [...file, 'search --no-floppy --set=disk --file "$file"', 'if [ -n "$disk" ]; then', '  if chainloader "($disk)$file"; then boot; fi', 'fi', ...startOver()];
}

function startOver(): string[] {
  return ['sleep 10', 'reboot'];
}

function say(code: string, text: string): string {
  return `echo ${grubQuoted(`rackseed: ${code}: ${text}`)}`;
}

/** One word of GRUB's shell: nothing has a meaning between single quotes, and they alone cannot stand there. What is not printable ASCII becomes `?`. */
export function grubQuoted(text: string): string {
  return `'${text.replace(/[^\x20-\x7e]/g, '?').replaceAll("'", "'\\''")}'`;
}

function lines(...commands: string[]): string {
  return [...commands, ''].join('\n');
}
