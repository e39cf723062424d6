// Kea's memfile of DHCPv4 leases: CSV with a header that names the columns; the last line of an address counts.
import { parseIp4, parseMac } from '../../addr.ts';
import { colonsOfHex, FOREVER, hexOfColons, leaseRow, rowSink, type LeaseRow, type ParsedLeases } from './rows.ts';

const NEEDED = ['address', 'hwaddr', 'expire', 'state'] as const;
/** Kea's number for a lease without an end; `expire` is then nothing to go by. */
const INFINITE = 0xffffffff;
/** Kea's lease states; what else there is (2 expired-reclaimed, 3 released) holds nothing. */
const STATE = { active: '0', declined: '1' } as const;

export function readKea(text: string, file: string): ParsedLeases {
  const sink = rowSink(file);
  const lines = text.split('\n');
  const columns = lines[0]!.replace(/\r$/, '').split(',');
  const missing = NEEDED.filter((name) => !columns.includes(name));
  if (missing.length > 0) {
    const hint = columns.includes('duid') ? 'this is the file of DHCPv6 leases; IPv4 has kea-leases4.csv' : "Kea's kea-leases4.csv starts with the names of its columns";
    sink.fault(1, 1, `no column ${missing.join(', ')}`, hint);
    return sink.done();
  }
  const at = Object.fromEntries(columns.map((name, i) => [name, i]));
  for (const [i, raw] of lines.entries()) {
    const line = raw.replace(/\r$/, '');
    if (i === 0 || line === '') continue;
    const cells = line.split(',');
    const cell = (name: string): string => cells[at[name] ?? -1] ?? '';
    const wrong = (name: string, message: string): void => sink.fault(i + 1, cells.slice(0, at[name]).join(',').length + ((at[name] ?? 0) > 0 ? 2 : 1), message);
    if (cells.length < NEEDED.length || cells.length < columns.length) {
      sink.fault(i + 1, 1, `${cells.length} columns where the header has ${columns.length}`, 'was the file cut off? copy it while Kea is stopped');
      continue;
    }
    const ip = parseIp4(cell('address'));
    if (!ip) {
      wrong('address', `${cell('address') || 'nothing'} is no IPv4 address`);
      continue;
    }
    const infinite = Number(cell('valid_lifetime')) === INFINITE;
    if (!infinite && !/^\d{1,12}$/.test(cell('expire'))) {
      wrong('expire', `${cell('expire') || 'nothing'} is no time in seconds since 1970`);
      continue;
    }
    const expiresAt = infinite ? FOREVER : Number(cell('expire')) * 1000;
    if (cell('state') === STATE.declined) sink.put(leaseRow(ip, undefined, expiresAt));
    // A lease that was deleted gets a last line with a lifetime of 0.
    else if (cell('state') !== STATE.active || cell('valid_lifetime') === '0') sink.free(ip);
    else {
      const mac = parseMac(cell('hwaddr'));
      // Leases by client id alone, and cards that are no Ethernet.
      if (!mac) sink.ignore();
      else sink.put(leaseRow(ip, mac, expiresAt, { hostname: unescape(cell('hostname')), clientId: hexOfColons(cell('client_id')) }));
    }
  }
  return sink.done();
}

/** Kea writes what would break the CSV as `&#x2c`. */
function unescape(text: string): string {
  return text.replace(/&#x([0-9a-f]{2})/gi, (_all, code: string) => String.fromCharCode(Number.parseInt(code, 16)));
}

/** `subnetId`: Kea's number of the subnet that an address lies in; `now` fills in for a start that is not known. */
export function writeKea(rows: readonly LeaseRow[], now: number, subnetId: (row: LeaseRow) => number = () => 1): string {
  const head = 'address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context\n';
  return (
    head +
    rows
      .map((row) => {
        const started = Math.floor((row.startedAt ?? Math.min(now, row.expiresAt)) / 1000);
        const infinite = row.expiresAt >= FOREVER;
        // Kea reckons `expire` from its 32 bits of lifetime, wrapped as it does.
        const lifetime = infinite ? INFINITE : Math.max(1, Math.floor(row.expiresAt / 1000) - started);
        return [row.ip, row.mac ?? '', row.clientId ? colonsOfHex(row.clientId) : '', lifetime, started + lifetime, subnetId(row), 0, 0, row.hostname ?? '', row.mac === undefined ? STATE.declined : STATE.active, ''].join(',');
      })
      .map((line) => `${line}\n`)
      .join('')
  );
}
