// dnsmasq's lease file: `<end> <mac> <address> <name> <client id>` a line, 0 for a lease without an end; IPv6 leases follow a `duid` line.
import { parseIp4, parseMac } from '../../addr.ts';
import { colonsOfHex, FOREVER, hexOfColons, leaseRow, rowSink, type LeaseRow, type ParsedLeases } from './rows.ts';

/** A build for devices without a clock writes how long a lease lasts: no time since 1970 is so small. */
const SMALLEST_TIME = 1_000_000_000;

export function readDnsmasq(text: string, file: string): ParsedLeases {
  const sink = rowSink(file);
  let six = false;
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    const words = [...line.matchAll(/\S+/g)];
    const word = (n: number): string => words[n]?.[0] ?? '';
    const wrong = (n: number, message: string, hint?: string): void => sink.fault(i + 1, (words[n]?.index ?? line.length) + 1, message, hint);
    if (word(0) === 'duid') six = true;
    else if (six) sink.ignore();
    else if (!/^\d{1,12}$/.test(word(0))) wrong(0, `${word(0)} is no time in seconds since 1970`);
    else if (word(0) !== '0' && Number(word(0)) < SMALLEST_TIME) wrong(0, `${word(0)} is a length, not a time`, 'this dnsmasq has no clock and writes how long its leases last: nobody can tell when they end');
    else {
      const ip = parseIp4(word(2));
      if (!ip) wrong(2, `${word(2) || 'nothing'} is no IPv4 address`);
      // Another hardware type stands before the address: 06-aa:bb:…
      else if (/^[0-9a-f]{2}-/i.test(word(1))) sink.ignore();
      else {
        const mac = parseMac(word(1));
        const expiresAt = word(0) === '0' ? FOREVER : Number(word(0)) * 1000;
        if (mac) sink.put(leaseRow(ip, mac, expiresAt, { hostname: word(3) === '*' ? undefined : word(3), clientId: hexOfColons(word(4)) }));
        else wrong(1, `${word(1)} is no MAC address`);
      }
    }
  }
  return sink.done();
}

/** dnsmasq keeps no quarantines: they are left out. */
export function writeDnsmasq(rows: readonly LeaseRow[]): string {
  return rows
    .filter((row) => row.mac !== undefined)
    .map((row) => `${row.expiresAt >= FOREVER ? 0 : Math.floor(row.expiresAt / 1000)} ${row.mac} ${row.ip} ${row.hostname ?? '*'} ${row.clientId ? colonsOfHex(row.clientId) : '*'}\n`)
    .join('');
}
