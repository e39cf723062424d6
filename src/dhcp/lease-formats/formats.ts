// Which format a file of leases is in, and the reader and writer of each.
import { readDnsmasq, writeDnsmasq } from './dnsmasq.ts';
import { readIsc, writeIsc } from './isc.ts';
import { readJson, writeJson } from './json.ts';
import { readKea, writeKea } from './kea.ts';
import { rowSink, type LeaseRow, type ParsedLeases } from './rows.ts';

export const LEASE_FORMATS = ['json', 'kea', 'isc', 'dnsmasq'] as const;
export type LeaseFormat = (typeof LEASE_FORMATS)[number];

const READERS: Readonly<Record<LeaseFormat, (text: string, file: string) => ParsedLeases>> = { json: readJson, kea: readKea, isc: readIsc, dnsmasq: readDnsmasq };

/** Reads a file of any of the formats; never throws. `file` is for the faults. */
export function readLeases(text: string, file: string, format: LeaseFormat | 'auto'): ParsedLeases {
  const found = format === 'auto' ? formatOf(text) : format;
  if (found) return READERS[found](text, file);
  const sink = rowSink(file);
  sink.fault(1, 1, 'nobody can tell what format this is', `name it: --format ${LEASE_FORMATS.join(' | ')}`);
  return sink.done();
}

/** By what stands first; undefined when that is nothing known. */
export function formatOf(text: string): LeaseFormat | undefined {
  const start = text.slice(0, 64 * 1024).replace(/^(\s*(#[^\n]*)?\n)*/, '');
  if (/^\s*[{[]/.test(start)) return 'json';
  if (/^\s*[a-z0-9_]+(,[a-z0-9_]*)+\r?\n/.test(start) && start.startsWith('address,')) return 'kea';
  if (/^\s*(lease|authoring-byte-order|server-duid|failover|host|group|ia-[a-z]+|subclass)\b/.test(start)) return 'isc';
  if (/^\s*(\d+ \S+ \d+\.\d+\.\d+\.\d+( |$)|duid )/m.test(start)) return 'dnsmasq';
  return undefined;
}

/** `now`: milliseconds since 1970, for a format that must name a start which is not known. */
export function writeLeases(format: LeaseFormat, rows: readonly LeaseRow[], now: number, subnetId?: (row: LeaseRow) => number): string {
  switch (format) {
    case 'json':
      return writeJson(rows);
    case 'kea':
      return writeKea(rows, now, subnetId);
    case 'isc':
      return writeIsc(rows);
    case 'dnsmasq':
      return writeDnsmasq(rows);
  }
}
