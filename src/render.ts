// What the servers would send a node on its way up: the DHCP answers, script or configuration, config and facts, by their own rules. Pure.
import type { Ip4, Mac } from './addr.ts';
import { decide, type BootDecision, type View } from './boot/decide.ts';
import { GRUB_ROOT_CFG, grubFor } from './boot/grub.ts';
import { scriptFor } from './boot/ipxe.ts';
import type { ChosenSet } from './boot/loader-set.ts';
import type { SaidNext } from './boot/next.ts';
import type { Failures } from './boot/hold.ts';
import type { Node } from './boot/node.ts';
import type { BootSet, Generation } from './boot/profile.ts';
import { quirksOf, sentBy, type AppliedQuirk, type KnownMachine } from './boot/quirks.ts';
import { machineOf, type BootRequest } from './boot/request.ts';
import { renderConfig, sshKeysOf } from './boot/session.ts';
import type { Boot } from './boot/timeline.ts';
import { UKI_FILE } from './boot/urls.ts';
import { identify } from './dhcp/client.ts';
import { encode, maxBytesFor, type Packet } from './dhcp/packet.ts';
import { renderLease, renderProxy, shortenable, type ReplyParts } from './dhcp/reply.ts';
import type { ServedSubnet } from './dhcp/subnet.ts';
import { factsOf, type Facts } from './postboot/facts.ts';

/** The questions of one machine, in the order in which it asks them. */
export interface Asks {
  /** The DISCOVER of its firmware; absent: the card's own program is an iPXE. */
  readonly rom?: Packet;
  /** What the firmware asks port 4011 beside another server's lease. */
  readonly romAt4011?: Packet;
  /** The DISCOVER of the iPXE that it then runs. */
  readonly ipxe: Packet;
}

export interface RenderParts {
  readonly generation: Generation;
  readonly node: Node;
  /** The card that boots. */
  readonly mac: Mac;
  readonly asks: Asks;
  /** What is known of the node: its failures, what was said of its next start. */
  readonly history: Failures & SaidNext;
  readonly holdAfter: number;
  /** What its firmware and SMBIOS were seen to say. */
  readonly seen: Omit<KnownMachine, 'macs'>;
  /** The loader set of the node. */
  readonly loaders: ChosenSet;
  readonly subnet: ServedSubnet;
  /** The address that it would get; beside another server's lease: would have. */
  readonly ip: Ip4;
  readonly httpPort: number;
  readonly publicBase?: string;
  readonly fallbacks?: readonly string[];
  readonly bootId: string;
  /** Milliseconds since 1970. */
  readonly now: number;
}

export interface DhcpAnswer {
  /** `OFFER to the firmware`. */
  readonly what: string;
  readonly decision: BootDecision;
  /** Absent: no answer is sent, and why. */
  readonly packet?: Packet;
  readonly bytes?: Uint8Array;
  readonly why?: string;
}

export interface Rendered {
  readonly dhcp: readonly DhcpAnswer[];
  /** `script`: for an iPXE; `grub.cfg`; absent where firmware starts a UKI, which holds all of it, or nothing of ours is run. */
  readonly script?: { readonly file: 'script' | 'grub.cfg'; /** What GRUB reads first. */ readonly before?: string; readonly text: string };
  /** What the initrd stage and the agent read; absent where nothing of ours boots. The ssh host key is not in it, nor variables that are called a token, password or secret: `MASKED` stands there. */
  readonly config?: string;
  readonly facts?: Facts;
  readonly quirks: readonly AppliedQuirk[];
}

export const MASKED = 'masked';

export function renderNode(parts: RenderParts): Rendered {
  const { generation, node, mac, asks, history, subnet, ip, bootId, now } = parts;
  const first = identify(asks.rom ?? asks.ipxe, subnet.serve);
  const quirks = quirksOf(machineKnown(parts, first), generation.quirks, node);
  const send = sentBy(quirks);
  const assigned = generation.profiles[node.profile]?.bootSet;
  const of = (request: BootRequest): Boot => ({ id: bootId, node: node.name, mac, state: 'open', startedAt: now, profile: node.profile, generation: generation.id, ip, machine: machineOf(request), ...(quirks.length > 0 ? { quirks } : {}), stages: [] });
  const viewFor = (request: BootRequest): View => ({ node, ...(send ? { quirks: send } : {}), ...parts.loaders, holdAfter: parts.holdAfter, ...history, ...(assigned ? { assigned } : {}), openBoot: of(request) });

  const answer = (what: string, packet: Packet, type: 'offer' | 'ack' = 'offer'): DhcpAnswer => {
    const request = identify(packet, subnet.serve);
    const decision = decide(viewFor(request), request, generation);
    const reply: ReplyParts = { packet, request, answer: { decision, node, ...(send ? { quirks: send } : {}) }, subnet, httpPort: parts.httpPort };
    const rendered = subnet.mode === 'full' ? renderLease(reply, type, ip) : renderProxy(reply, type);
    if (!rendered) return { what, decision, why: decision.kind === 'silent' ? decision.why : 'there is nothing to boot for it here, so the other server answers alone' };
    const bytes = encoded(packet, rendered);
    return typeof bytes === 'string' ? { what, decision, why: bytes } : { what, decision, packet: rendered, bytes };
  };
  const rom = asks.rom && answer('OFFER to its firmware', asks.rom);
  const at4011 = asks.romAt4011 && subnet.mode === 'proxy' ? answer('ACK from port 4011 to its firmware', asks.romAt4011, 'ack') : undefined;
  const loader = rom && loaderOf(rom.decision);
  const isGrub = loader !== undefined && /(^|\/)(shim|grub)[^/]*$/.test(loader.file);
  const runsIpxe = loader?.file !== UKI_FILE && !isGrub && (rom === undefined || loader !== undefined);
  const dhcp = [...(rom ? [rom] : []), ...(at4011 ? [at4011] : []), ...(runsIpxe ? [answer(rom ? 'OFFER to the iPXE that it then runs' : 'OFFER to its iPXE', asks.ipxe)] : [])];

  const request = runsIpxe ? identify(asks.ipxe, subnet.serve) : first;
  const machine = machineOf(request);
  // As the HTTP and TFTP servers ask: a script request says nothing of the machine, what its DHCP packets said holds for it.
  const via = loader?.via === 'tftp' && isGrub ? 'tftp' : 'http';
  const asked: BootRequest = { ...machine, via, mac, ip, wants: 'script', ...(runsIpxe ? { asker: 'ipxe' } : {}) };
  const decision = decide(viewFor(request), asked, generation);
  const digest = decision.kind === 'boot' ? decision.bootSet : undefined;
  const bootSet: BootSet | undefined = digest === undefined ? undefined : generation.bootSets[digest];
  const boot: Boot = { ...of(request), ...(digest === undefined ? {} : { bootSet: digest }) };
  const baseUrl = `http://${subnet.serverIp}:${parts.httpPort}`;
  const told = { decision, node, ...(bootSet ? { bootSet } : {}), boot };
  const elsewhere = { ...(parts.publicBase === undefined ? {} : { publicBase: parts.publicBase }), ...(parts.fallbacks ? { fallbacks: parts.fallbacks } : {}) };
  return {
    dhcp,
    ...(isGrub ? { script: { file: 'grub.cfg' as const, before: GRUB_ROOT_CFG, text: grubFor(told, { mac, baseUrl, via }) } } : runsIpxe ? { script: { file: 'script' as const, text: scriptFor(told, { mac, baseUrl, publicBase: parts.publicBase }) } } : {}),
    ...(bootSet ? { config: masked(renderConfig(boot, bootSet, node, { ...elsewhere, ...(sshKeysOf(bootSet, node).length > 0 ? { hostKey: MASKED } : {}) })), facts: withoutSecrets(factsOf(boot, bootSet, node, baseUrl)) } : {}),
    quirks,
  };
}

/** What it says now counts before what was seen of it. */
function machineKnown({ seen, mac }: RenderParts, { vendorClass, arch }: BootRequest): KnownMachine {
  return { ...seen, ...(vendorClass ? { vendorClass } : {}), ...(arch ? { arch } : {}), macs: [mac] };
}

function loaderOf(decision: BootDecision): { readonly file: string; readonly via: 'tftp' | 'http' } | undefined {
  return decision.kind === 'loader' ? decision : decision.kind === 'hold' ? decision.loader : undefined;
}

/** As it goes out: shortened if need be. A text says why it cannot. */
function encoded(packet: Packet, reply: Packet): Uint8Array | string {
  const most = maxBytesFor(packet);
  let bytes = encode(reply, most);
  if (!(bytes instanceof Uint8Array)) {
    const shorter = shortenable(reply, packet);
    bytes = encode(shorter.packet, most, shorter);
  }
  return bytes instanceof Uint8Array ? bytes : bytes.why;
}

/** Nothing secret belongs into a profile; what is called so all the same shall not stand in a CI log. */
function withoutSecrets(facts: Facts): Facts {
  return { ...facts, vars: Object.fromEntries(Object.entries(facts.vars).map(([name, value]) => [name, /token|passw|secret/i.test(name) ? MASKED : value])) };
}

/** The key itself is never read for this. */
function masked(config: string): string {
  return config.replace(/^ssh-host-key .*$/m, `ssh-host-key ${MASKED}`);
}
