// `rackseed probe`: asks a link as a booting machine would, and says who answers, with what, and what is wrong with it.
import { parseIp4, parseMac } from '../addr.ts';
import { AppError } from '../errors.ts';
import { ROLES, type Role } from '../probe/firmware.ts';
import { probe, type ProbeResult } from '../probe/probe.ts';
import type { ProbeAnswer } from '../probe/answers.ts';
import type { Fetched } from '../probe/fetch.ts';
import { serverOf } from '../probe/verdict.ts';
import { bytes, render, type Column, type Format } from './output.ts';

/** As the command line has them: all text. */
export interface ProbeCommandOptions {
  readonly interface: string;
  /** One of ROLES. */
  readonly as?: string;
  readonly mac?: string;
  /** Seconds, 1-60. */
  readonly timeout?: string;
  readonly lease?: boolean;
  /** false: --no-fetch. */
  readonly fetch?: boolean;
  readonly expect?: string;
  readonly output: Format;
}

const ANSWERS: readonly Column<ProbeAnswer>[] = [
  { title: 'SERVER', of: serverOf },
  { title: 'KIND', of: ({ kind, relay }) => (relay ? `${kind}, relayed` : kind) },
  { title: 'ADDRESS', of: ({ address }) => address },
  { title: 'NEXT SERVER', of: ({ siaddr, tftpServer }) => siaddr ?? tftpServer },
  { title: 'BOOT FILE', of: ({ bootFile, file }) => bootFile ?? file },
  { title: 'AFTER', of: ({ afterMs }) => `${afterMs} ms` },
  { title: 'TIMES', of: ({ times }) => times, wide: true },
  { title: 'FROM', of: ({ from }) => from, wide: true },
  { title: 'RELAY', of: ({ relay }) => relay, wide: true },
  { title: 'LEASE', of: ({ leaseSeconds }) => leaseSeconds && `${leaseSeconds} s`, wide: true },
  { title: 'ROUTER', of: ({ router }) => router?.join(','), wide: true },
  { title: 'NAME', of: ({ hostName }) => hostName, wide: true },
  { title: 'OPTION 60', of: ({ vendorClass }) => vendorClass, wide: true },
  { title: 'OPTION 66', of: ({ tftpServer }) => tftpServer, wide: true },
  { title: 'OPTION 43', of: ({ pxeDiscovery, vendorSpecific }) => pxeDiscovery ?? vendorSpecific, wide: true },
];

const FETCHES: readonly Column<Fetched>[] = [
  { title: 'FETCHED', of: ({ from }) => from },
  { title: 'SIZE', of: (one) => one.bytes !== undefined && one.ok ? bytes(one.bytes) : undefined },
  { title: 'TIME', of: ({ ms }) => ms !== undefined ? `${ms} ms` : undefined },
  { title: 'KIND', of: ({ kind }) => kind },
  { title: 'SHA256', of: ({ digest, ok }) => (ok ? digest?.slice('sha256:'.length) : 'not fetched') },
];

/**
 * What is printed when a machine could boot from what was found. Else the same goes to `io.print`, and PROBE_FAILED is thrown with the first
 * problem; PORT_UNAVAILABLE and USAGE before anything is asked.
 */
export async function probeCommand(options: ProbeCommandOptions, io: { readonly print: (text: string) => void } = { print: (text) => void process.stdout.write(text) }): Promise<string> {
  const mac = options.mac === undefined ? undefined : parseMac(options.mac);
  if (options.mac !== undefined && !mac) throw usage(`${options.mac} is no MAC address`, '52:54:00:12:34:56');
  const expect = options.expect === undefined ? undefined : parseIp4(options.expect);
  if (options.expect !== undefined && !expect) throw usage(`${options.expect} is no IPv4 address`, '--expect 10.77.0.1');
  const timeoutS = Number(options.timeout ?? '5');
  if (!(timeoutS >= 1 && timeoutS <= 60)) throw usage(`--timeout ${options.timeout} is not between 1 and 60 seconds`, 'dnsmasq needs 3 s for its first offer, hence 5');
  const result = await probe({
    interface: options.interface,
    role: roleOf(options.as ?? 'bios'),
    timeoutS,
    fetch: options.fetch ?? true,
    lease: options.lease ?? false,
    ...(mac ? { mac } : {}),
    ...(expect ? { expect } : {}),
  });
  const text = options.output === 'table' || options.output === 'wide' ? tables(result, options.output) : render(options.output, result, [], []);
  const problem = result.findings.find(({ level }) => level === 'problem');
  if (!problem) return text;
  io.print(text);
  throw new AppError('PROBE_FAILED', `${result.interface}: ${problem.what}`, problem.hint);
}

function roleOf(text: string): Role {
  const role = ROLES.find((known) => known === text);
  if (!role) throw usage(`--as ${text} is no kind of machine`, `one of ${ROLES.join(', ')}`);
  return role;
}

function usage(message: string, hint: string): AppError {
  return new AppError('USAGE', message, hint);
}

function tables(result: ProbeResult, format: 'table' | 'wide'): string {
  const parts = [`asked on ${result.interface} from ${result.source} as ${result.mac} (${result.as}), ${result.answers.length} ${result.answers.length === 1 ? 'answer' : 'answers'} in ${result.timeoutS} s\n`];
  if (result.answers.length > 0) parts.push(render(format, result, result.answers, ANSWERS));
  if (result.lease?.state === 'ack') parts.push(`lease: ${result.lease.address} of ${result.lease.server}, ${result.lease.released ? 'given back' : 'not given back'}\n`);
  const { fetched = [] } = result;
  if (fetched.length > 0) parts.push(render(format, result, fetched, FETCHES));
  for (const { from, script, files = [] } of fetched) {
    if (!script) continue;
    parts.push(`${from} begins:\n${script.map((line) => `  ${line}\n`).join('')}`);
    if (files.length > 0) parts.push(files.map(({ command, url, status, size, why }) => `${command}: ${url ?? ''}${url ? ' ' : ''}${why ?? `HTTP ${status}${size === undefined ? '' : `, ${bytes(size)}`}`}\n`).join(''));
  }
  if (result.findings.length > 0) parts.push(result.findings.map(({ level, what, hint }) => `${level}: ${what}\n${hint && level !== 'problem' ? `  hint: ${hint}\n` : ''}`).join(''));
  return parts.join('\n');
}
