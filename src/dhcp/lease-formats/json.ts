// Our own form: `{ "leases": [ … ] }`, one lease a line, times in milliseconds since 1970; what the API answers is read too.
import { parseIp4, parseMac } from '../../addr.ts';
import { leaseRow, rowSink, type LeaseRow, type ParsedLeases } from './rows.ts';

export function readJson(text: string, file: string): ParsedLeases {
  const sink = rowSink(file);
  const at = (offset: number): [line: number, column: number] => {
    const before = text.slice(0, offset).split('\n');
    return [before.length, before.at(-1)!.length + 1];
  };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const offset = / position (\d+)/.exec((error as Error).message)?.[1];
    sink.fault(...at(offset === undefined ? text.length : Number(offset)), (error as Error).message.replace(/ in JSON at position.*$| \(line.*$/s, ''));
    return sink.done();
  }
  const leases = Array.isArray(value) ? (value as unknown[]) : (value as { leases?: unknown } | null)?.leases;
  if (!Array.isArray(leases)) {
    sink.fault(1, 1, 'no list of leases', 'write { "leases": [ { "ip": …, "mac": …, "expiresAt": … } ] }');
    return sink.done();
  }
  const places = lazily(() => entryOffsets(text));
  for (const [i, entry] of (leases as unknown[]).entries()) {
    const read = rowOf(entry);
    if (typeof read === 'string') sink.fault(...at(places()[i] ?? 0), read);
    else sink.put(read);
  }
  return sink.done();
}

function rowOf(entry: unknown): LeaseRow | string {
  if (typeof entry !== 'object' || entry === null) return 'a lease is an object';
  const { ip, mac, expiresAt, startedAt, hostname, clientId, declinedUntil } = entry as Record<string, unknown>;
  const address = typeof ip === 'string' ? parseIp4(ip) : undefined;
  if (!address) return `ip: ${JSON.stringify(ip)?.slice(0, 60) ?? 'nothing'} is no IPv4 address`;
  const until = declinedUntil ?? expiresAt;
  if (!isTime(until)) return 'expiresAt: not a time in milliseconds since 1970';
  if (startedAt !== undefined && !isTime(startedAt)) return 'startedAt: not a time in milliseconds since 1970';
  if (hostname !== undefined && typeof hostname !== 'string') return 'hostname: not a text';
  if (clientId !== undefined && !(typeof clientId === 'string' && /^([0-9a-f]{2}){1,255}$/i.test(clientId))) return 'clientId: not pairs of hex digits';
  if (declinedUntil !== undefined) return leaseRow(address, undefined, until);
  const card = typeof mac === 'string' ? parseMac(mac) : undefined;
  if (!card) return `mac: ${JSON.stringify(mac)?.slice(0, 60) ?? 'nothing'} is no MAC address`;
  return leaseRow(address, card, until, { startedAt, hostname, clientId: clientId?.toLowerCase() });
}

function isTime(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

/** Where each element of the list of leases starts: of the first list in the file. The text is valid JSON. */
function entryOffsets(text: string): number[] {
  const offsets: number[] = [];
  let list = -1;
  let depth = 0;
  let fresh = false;
  for (const match of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{},]|[^\s[\]{},":]+/g)) {
    const mark = match[0];
    if (depth === list && mark === ']') break;
    if (depth === list && fresh && mark !== ',') offsets.push(match.index);
    if (depth === list) fresh = mark === ',';
    if (mark === '[' || mark === '{') {
      depth++;
      if (list < 0 && mark === '[') [list, fresh] = [depth, true];
    } else if (mark === ']' || mark === '}') depth--;
  }
  return offsets;
}

function lazily<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

export function writeJson(rows: readonly LeaseRow[]): string {
  const lines = rows.map((row) => JSON.stringify(row.mac === undefined ? { ip: row.ip, declinedUntil: row.expiresAt } : row));
  return `{ "leases": [\n${lines.join(',\n')}${lines.length > 0 ? '\n' : ''}] }\n`;
}
