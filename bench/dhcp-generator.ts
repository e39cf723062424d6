// What the servers are asked with: our own generator (generator.c), and ISC's perfdhcp, whose report is read here.
import { join } from 'node:path';
import { NET, type Site } from './site.ts';

export interface Load {
  /** `dora`: four-way exchanges · `renew`: first those, then renewals by unicast · `burst`: DISCOVERs at once · `offer`: DISCOVERs, resent until answered. */
  readonly mode: 'dora' | 'renew' | 'burst' | 'offer';
  /** Directly attached machines without a relay. */
  readonly broadcast?: boolean;
  /** Exchanges outstanding at once. */
  readonly window: number;
  /** Machines that take part at most. */
  readonly count?: number;
  /** The number of the first of them, which is in its MAC. */
  readonly first?: number;
  readonly seconds: number;
  /** Not measured, before it. */
  readonly warmup?: number;
  /** After how many seconds without an answer a packet is sent again; default 1. */
  readonly resend?: number;
  /** The server's process, whose CPU time is taken over the measured kind of exchange. */
  readonly watch?: number;
}

/** As generator.c prints it; `exchanges` are those after the warm-up, `all` has the others too. */
export interface Generated {
  readonly seconds: number;
  readonly exchanges: number;
  readonly all: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly bound: number;
  readonly sent: number;
  readonly received: number;
  readonly resent: number;
  readonly naks: number;
  readonly strangers: number;
  /** Of the watched process, for `all`. */
  readonly cpuSeconds: number;
  /** Addresses that two machines were given. */
  readonly duplicates: number;
}

export async function generate(site: Site, load: Load): Promise<Generated> {
  const { broadcast, ...words } = load;
  const argv = [join(site.dir, 'generator'), '--local', NET.theirs, '--server', NET.server, ...(broadcast ? ['--broadcast', NET.theirCard] : [])];
  for (const [word, value] of Object.entries(words)) argv.push(`--${word}`, String(value));
  const result = JSON.parse(await site.run(argv)) as Generated;
  if (result.duplicates > 0) throw new Error(`${result.duplicates} addresses were given to two machines each: no figure of this server means anything`);
  return result;
}

/** One kind of exchange in perfdhcp's report; times in milliseconds from sent to received. */
export interface Leg {
  readonly sent: number;
  readonly lost: number;
  readonly times: readonly number[];
}

export interface Perfdhcp {
  readonly legs: readonly Leg[];
  /** Of all that was sent, the share that had no answer within a second, in percent. */
  readonly lostPercent: number;
  readonly lost: number;
  readonly p50Ms: number;
  /** Of the leg that is the slowest. */
  readonly p99Ms: number;
  /** Whether it could keep the rate that it was asked for. */
  readonly kept: boolean;
}

/** `rate` exchanges a second for so many seconds, half of them renewals when `renewals`; through a relay, as perfdhcp does by itself. */
export async function perfdhcp(site: Site, { rate, seconds, renewals }: { readonly rate: number; readonly seconds: number; readonly renewals: boolean }): Promise<Perfdhcp> {
  const period = Math.max(1, Math.round(seconds)); // it takes whole seconds only
  const fourWay = renewals ? rate / 2 : rate;
  const argv = ['perfdhcp', '-4', '-l', NET.theirs, '-r', String(fourWay), ...(renewals ? ['-f', String(rate / 2)] : [])];
  // -R: a new machine for nearly each exchange; -W: what is on its way may still come; -xt: the time of each packet, for percentiles.
  argv.push('-R', '100000', '-p', String(period), '-W', '1000000', '-xt', NET.server);
  // 3: something was lost, which is an answer too.
  return readPerfdhcp(await site.run(argv, [0, 3]), fourWay * period);
}

/** Reads the report of `perfdhcp -xt`; `expected` is how many four-way exchanges it was to begin. */
export function readPerfdhcp(report: string, expected: number): Perfdhcp {
  const counts = new Map<string, { sent: number; lost: number }>();
  const times = new Map<string, number[]>();
  for (const section of report.split(/^\*\*\*/m).slice(1)) {
    const name = /^(?:Statistics|Timestamps) for(?: packets)?: (.+)\*\*\*/.exec(section)?.[1];
    if (!name) continue;
    if (section.startsWith('Statistics')) counts.set(name, { sent: numberAfter(section, 'sent packets'), lost: numberAfter(section, 'drops') });
    else times.set(name, [...section.matchAll(/^sent \/ received: (\S+) \/ (\S+)$/gm)].map(([, sent, received]) => (secondsOf(received!) - secondsOf(sent!)) * 1000).sort((a, b) => a - b));
  }
  if (counts.size === 0) throw new Error(`perfdhcp said nothing of what it did: ${report.slice(0, 200)}`);
  const legs = [...counts].map(([name, count]) => ({ ...count, times: times.get(name) ?? [] }));
  const sent = legs.reduce((sum, leg) => sum + leg.sent, 0);
  const lost = legs.reduce((sum, leg) => sum + leg.lost, 0);
  return {
    legs,
    lost,
    lostPercent: (100 * lost) / sent,
    p50Ms: Math.max(...legs.map((leg) => percentile(leg.times, 0.5))),
    p99Ms: Math.max(...legs.map((leg) => percentile(leg.times, 0.99))),
    kept: legs[0]!.sent >= expected * 0.98,
  };
}

function numberAfter(section: string, word: string): number {
  return Number(new RegExp(`^${word}: (\\d+)`, 'm').exec(section)?.[1] ?? NaN);
}

/** `000001.002003`: seconds and microseconds. */
function secondsOf(text: string): number {
  return Number(text);
}

function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.round(share * (sorted.length - 1))] ?? 0;
}
