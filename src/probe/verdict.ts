// What the answers and fetches mean: what is wrong, who is a stranger, and what to look at next. Pure.
import type { Ip4, Mac } from '../addr.ts';
import type { ProbeAnswer } from './answers.ts';
import type { Fetched, FileKind } from './fetch.ts';
import type { Role } from './firmware.ts';

/** A machine cannot boot with a `problem`; it may with a `warning`. */
export interface Finding {
  readonly level: 'problem' | 'warning' | 'note';
  readonly what: string;
  /** What to look at next. */
  readonly hint?: string;
}

export interface LeaseTaken {
  readonly state: 'ack' | 'nak' | 'none';
  readonly address: Ip4;
  readonly server: Ip4;
  /** The server's words in a NAK, or why the address could not be used for the fetch. */
  readonly why?: string;
  /** Whether it was given back. */
  readonly released: boolean;
}

export interface Seen {
  readonly role: Role;
  readonly mac: Mac;
  readonly answers: readonly ProbeAnswer[];
  /** How many DISCOVERs were sent. */
  readonly sent: number;
  readonly timeoutS: number;
  /** The server that should answer, when the user named it. */
  readonly expect?: Ip4;
  readonly lease?: LeaseTaken;
  /** undefined: nothing was to be fetched. */
  readonly fetched?: readonly Fetched[];
}

/** What each firmware can run; a script is for an iPXE alone. */
const RUNS: Readonly<Record<Role, readonly FileKind[]>> = {
  bios: ['program'],
  ipxe: ['script', 'program'],
  uefi: ['efi-amd64'],
  // Anything else may be a disk image, which HTTP Boot mounts.
  'uefi-http': ['efi-amd64', 'program'],
};
const KINDS: Readonly<Partial<Record<FileKind, string>>> = {
  script: 'an iPXE script',
  efi: 'a UEFI program for another architecture',
  program: 'no UEFI program and no script',
};
const kindWords = (kind: FileKind): string => KINDS[kind] ?? `a UEFI program for ${kind.slice('efi-'.length)}`;

/** All findings, the worst first. The machine can boot when none is a problem. */
export function judge(seen: Seen): Finding[] {
  const findings = seen.answers.length === 0 ? [silence(seen)] : [...servers(seen), ...boot(seen), ...lease(seen), ...fetches(seen)];
  const order = ['problem', 'warning', 'note'];
  return findings.sort((a, b) => order.indexOf(a.level) - order.indexOf(b.level));
}

/** What identifies a server: its option 54, or where it sends from. */
export function serverOf(answer: ProbeAnswer): Ip4 {
  return answer.server ?? answer.from;
}

function silence({ mac, timeoutS }: Seen): Finding {
  return {
    level: 'problem',
    what: `no DHCP server answered within ${timeoutS} s`,
    hint: [
      `unknown MAC: rackseed answers only machines that a profile names (is ${mac} in boot-profiles/? else --mac)`,
      'this interface and VLAN are the boot LAN?',
      'a firewall, here or there, drops UDP 67/68?',
      'the server is behind a router without a DHCP relay?',
      "the daemon runs (rackseed's log has a line for each DISCOVER at level debug)?",
    ].join('; '),
  };
}

function servers({ answers, sent, expect }: Seen): Finding[] {
  const offers = answers.filter(({ kind }) => kind === 'offer');
  const proxies = answers.filter(({ kind }) => kind === 'proxy');
  const all = distinct(answers.map(serverOf));
  const offering = distinct(offers.map(serverOf));
  const findings: Finding[] = [];
  if (offering.length === 0) findings.push({ level: 'problem', what: `only a proxyDHCP server answers (${all.join(', ')}): nobody gives the machine an address`, hint: 'a DHCP server must answer on this link too' });
  if (expect && !all.includes(expect)) findings.push({ level: 'problem', what: `${expect}, which should answer, did not`, hint: 'is the MAC in a profile of that server? does a firewall stand between?' });
  const strangers = expect ? all.filter((server) => server !== expect) : [];
  if (strangers.length > 0) findings.push({ level: 'warning', what: `a stranger answers: ${strangers.join(', ')}`, hint: 'a machine takes the first offer that suits it: stop that server, or keep it off this link' });
  else if (offering.length > 1) {
    findings.push({ level: 'warning', what: `${offering.length} DHCP servers answer, one of them a stranger: ${offering.join(', ')}`, hint: 'a machine takes the first offer that suits it: stop the one that is not yours (--expect <ip> names yours)' });
  }
  if (proxies.length > 0 && strangers.length === 0) {
    findings.push({ level: 'warning', what: `a proxyDHCP server answers too: ${distinct(proxies.map(serverOf)).join(', ')}`, hint: 'ROMs may prefer what it names to boot; its answers on port 4011 were not asked for' });
  }
  for (const server of all) {
    const own = answers.filter((answer) => serverOf(answer) === server);
    const from = distinct(own.map((answer) => answer.from));
    const relays = distinct(own.flatMap(({ relay }) => relay ?? []));
    if (relays.length > 0) findings.push({ level: 'note', what: `${server} answers through the relay ${relays.join(', ')}` });
    const times = own.reduce((sum, answer) => sum + answer.times, 0);
    if (times > sent) findings.push({ level: 'warning', what: `${server} answered ${times} times to ${sent === 1 ? 'one DISCOVER' : `${sent} DISCOVERs`}${from.length > 1 ? ` from ${from.join(', ')}` : ''}`, hint: 'two relays, two servers with one address, or a loop in the network' });
  }
  const addresses = distinct(offers.flatMap(({ address }) => address ?? []));
  for (const address of addresses) {
    const by = distinct(offers.filter((offer) => offer.address === address).map(serverOf));
    if (by.length > 1) findings.push({ level: 'warning', what: `${by.join(' and ')} offer the same address ${address}`, hint: 'their pools overlap: two machines will get one address' });
  }
  return findings;
}

function boot({ answers, role }: Seen): Finding[] {
  const usable = answers.some(({ target }) => target.via !== 'none');
  const findings = answers.flatMap((answer): Finding[] =>
    answer.target.via === 'none' ? [{ level: usable ? 'note' : 'problem', what: `${serverOf(answer)}: ${answer.target.why}` }] : [],
  );
  if (usable) return unique(findings);
  return unique(findings).map((finding, index) => (index === 0 ? { ...finding, hint: `no answer tells a ${role} machine what to boot; rackseed leaves it out for a node whose profile boots from disk` } : finding));
}

function lease({ lease: taken }: Seen): Finding[] {
  if (!taken) return [];
  const { state, address, server, why, released } = taken;
  if (state === 'none') return [{ level: 'problem', what: `${server} offered ${address} and then did not answer the REQUEST` }];
  if (state === 'nak') return [{ level: 'problem', what: `${server} offered ${address} and then refused it${why ? `: ${why}` : ''}` }];
  const kept: Finding[] = released ? [] : [{ level: 'note', what: `the lease of ${address} stays at ${server} until it ends` }];
  return why ? [{ level: 'warning', what: `fetched from this machine's own address: ${why}` }, ...kept] : kept;
}

function fetches({ role, fetched, lease: taken }: Seen): Finding[] {
  if (!fetched) return [];
  const good = fetched.some((one) => faultOf(role, one) === undefined);
  return fetched.flatMap((one): Finding[] => {
    const fault = faultOf(role, one);
    if (fault === undefined) return one.script && (one.files ?? []).length === 0 ? [{ level: 'warning', what: `${one.from} names no kernel or initrd: its lines are shown` }] : [];
    const withLease = taken?.state === 'ack' && !taken.why;
    const hint = one.refused && !withLease ? 'rackseed answers only machines that it knows by their lease or reservation, and none was taken: --lease takes the offered one for the time of the fetch' : undefined;
    return [{ level: good ? 'warning' : 'problem', what: fault, ...(hint ? { hint } : {}) }];
  });
}

/** Why a machine could not go on with it; undefined when it could. */
function faultOf(role: Role, one: Fetched): string | undefined {
  if (!one.ok) return `${one.from} ${one.refused ? 'was refused' : 'was not fetched'}: ${one.why ?? 'unknown'}`;
  if (one.bytes === 0) return `${one.from} is empty`;
  if (one.kind && !RUNS[role].includes(one.kind)) return `${one.from} is ${kindWords(one.kind)}, which a ${role} machine (amd64) cannot run: wrong architecture or firmware`;
  const missing = (one.files ?? []).find(({ ok }) => !ok);
  return missing ? `${one.from} names a ${missing.command} that is not there: ${missing.url ?? ''} ${missing.why ?? `HTTP ${missing.status}`}` : undefined;
}

function distinct<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}

function unique(findings: readonly Finding[]): Finding[] {
  return [...new Map(findings.map((finding) => [finding.what, finding])).values()];
}
