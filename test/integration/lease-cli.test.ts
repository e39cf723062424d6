// `rackseed lease`: listed, exported and imported through the API, over a ledger of leases and a database; exports are read by the real servers.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseRange, parseSubnet } from '../../src/addr.ts';
import { createLedger, type Ledger } from '../../src/dhcp/ledger.ts';
import { readLeases } from '../../src/dhcp/lease-formats/formats.ts';
import type { ServedSubnet } from '../../src/dhcp/subnet.ts';
import { createHttp, listenOnSocket } from '../../src/http/server.ts';
import { leaseRoutes } from '../../src/http/leases.ts';
import { createLog } from '../../src/log.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createLeaseStore, type LeaseStore } from '../../src/store/leases.ts';

const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const GOLDEN = fileURLToPath(new URL('../golden/leases/', import.meta.url));
const A = '52:54:00:00:00:0a';
const NET = '10.77.0.0/24';
const HOUR = 3_600_000;
const subnet: ServedSubnet = {
  subnet: parseSubnet(NET)!, mode: 'full', serve: 'any', serverIp: '10.77.0.1', pools: [{ ranges: [parseRange('10.77.0.100-10.77.0.199')!] }],
  dns: [], leaseSeconds: 3600, options: [], conflictCheck: false,
};

let dir: string;
let database: Database;
let leases: LeaseStore;
let ledger: Ledger;
let app: FastifyInstance;
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-lease-cli-'));
  database = openDatabase(join(dir, 'rackseed.db'));
  leases = createLeaseStore(database);
  ledger = createLedger({ subnets: [subnet], leases, reserved: (ip) => (ip === '10.77.0.150' ? 'n1' : undefined), now: Date.now });
  await ledger.load();
  app = await createHttp('people', createLog('silent', { write: () => undefined }), async (routes) => leaseRoutes(routes, { ...ledger, list: leases.list }));
  await listenOnSocket(app, join(dir, 'api.sock'));
});
afterEach(async () => {
  await app.close();
  await database.close();
  rmSync(dir, { recursive: true, force: true });
});

function cli(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [CLI, '--url', `unix:${join(dir, 'api.sock')}`, 'lease', ...args], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, err] = ['', ''];
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    child.on('close', (code) => resolve({ code: code ?? -1, out, err }));
  });
}

function file(name: string, text: string): string {
  writeFileSync(join(dir, name), text);
  return name;
}

const take = (ip: string, mac: string, more: { expiresAt?: number; hostname?: string; clientId?: string } = {}) => leases.take({ ip, mac, subnet: NET, expiresAt: Date.now() + HOUR, ...more }, Date.now());

describe('lease list', () => {
  it('is a table of every lease and quarantine, with what is left of each', async () => {
    await take('10.77.0.100', A, { hostname: 'web01', clientId: '01525400' });
    await take('10.77.0.101', '52:54:00:00:00:0b', { expiresAt: Date.now() - 1 });
    await leases.decline('10.77.0.102', NET, Date.now() + HOUR);
    const lines = (await cli('list')).out.split('\n');
    expect(lines[0]).toMatch(/^IP +STATE +HOLDER +MAC +HOSTNAME +ENDS IN$/);
    expect(lines[1]).toMatch(/^10\.77\.0\.100 +active +52:54:00:00:00:0a +52:54:00:00:00:0a +web01 +\d+m/);
    expect(lines[2]).toMatch(/^10\.77\.0\.101 +expired +52:54:00:00:00:0b +52:54:00:00:00:0b +- +-$/);
    expect(lines[3]).toMatch(/^10\.77\.0\.102 +quarantine +- +- +- +\d+m/);
    const wide = await cli('list', '-o', 'wide');
    expect(wide.out.split('\n')[1]).toMatch(/10\.77\.0\.0\/24 +\d{4}-\d\d-\d\dT[\d:]+ +01525400$/);
    expect(JSON.parse((await cli('list', '-o', 'json')).out)).toEqual({ leases: await leases.list() });
  });

  it('reads page after page, and only the subnet that was asked for', async () => {
    await leases.put(Array.from({ length: 2001 }, (_, i) => ({ ip: `10.78.${i >> 8}.${i & 255}`, mac: `52:54:00:01:${(i >> 8).toString(16).padStart(2, '0')}:${(i & 255).toString(16).padStart(2, '0')}`, subnet: '10.78.0.0/16', expiresAt: Date.now() + HOUR })), Date.now());
    await take('10.77.0.100', A);
    const all = JSON.parse((await cli('list', '-o', 'json')).out) as { leases: { ip: string }[] };
    expect(all.leases).toEqual(await leases.list());
    expect((await cli('list', '--subnet', NET)).out.trim().split('\n')).toHaveLength(2);
    expect(await cli('list', '--subnet', '10.77.0.1/24')).toMatchObject({ code: 65, err: expect.stringContaining('not a subnet') });
  });
});

describe('lease import', () => {
  it.each(['isc-4.4.3.leases', 'kea-2.2.0.csv', 'dnsmasq-2.90.leases'])('takes over %s, tells the DHCP server, and a second time changes nothing', async (name) => {
    // Its leases have ended: the same file, written in a later year.
    const text = readFileSync(join(GOLDEN, name), 'utf8').replaceAll(' 2026/', ' 2099/').replace(/\b1795[34]\d{5}\b/g, '4070908800');
    const copy = file(name, text);
    const rows = readLeases(text, name, 'auto').rows;
    const dry = await cli('import', copy, '--dry-run');
    expect(dry).toMatchObject({ code: 0, out: `${rows.length} would be imported, 0 skipped, 0 ended already, 0 free or of no use\n` });
    expect(await leases.list()).toEqual([]);
    expect((await cli('import', copy)).out).toBe(`${rows.length} imported, 0 skipped, 0 ended already, 0 free or of no use\n`);
    expect((await leases.list()).map((lease) => lease.ip).sort()).toEqual(rows.map((row) => row.ip).sort());
    const active = rows.filter((row) => row.mac !== undefined);
    expect(active.map((row) => ledger.leasedTo(row.ip))).toEqual(active.map((row) => row.mac));
    expect((await cli('import', copy)).out).toMatch(new RegExp(`^0 imported, ${rows.length} skipped`, 'm'));
  });

  it('says of each that it leaves out why', async () => {
    await take('10.77.0.100', A);
    const soon = Math.floor(Date.now() / 1000) + 3600;
    const line = (ip: string, n: number, at = soon) => `${at} 52:54:00:00:00:0${n} ${ip} * *\n`;
    const name = file('leases', line('10.77.0.100', 1) + line('10.99.0.1', 2) + line('10.77.0.1', 3) + line('10.77.0.150', 4) + line('10.77.0.101', 5) + line('10.77.0.102', 6, 1_000_000_000));
    const { code, out } = await cli('import', name);
    expect(code).toBe(0);
    expect(out).toMatch(/^skipped 10\.77\.0\.100: is leased to 52:54:00:00:00:0a$/m);
    expect(out).toMatch(/^skipped 10\.99\.0\.1: is in no subnet/m);
    expect(out).toMatch(/^skipped 10\.77\.0\.1: is the server/m);
    expect(out).toMatch(/^skipped 10\.77\.0\.150: is reserved for n1/m);
    expect(out.split('\n').at(-2)).toBe('1 imported, 4 skipped, 1 ended already, 0 free or of no use');
  });

  it('imports nothing of a file with a fault, and tells its place', async () => {
    const name = file('bad.leases', `${Math.floor(Date.now() / 1000) + 3600} ${A} 10.77.0.100 * *\nsoon ${A} 10.77.0.101 * *\n`);
    const { code, out, err } = await cli('import', name);
    expect([code, out]).toEqual([65, '']);
    expect(err).toMatch(/^bad\.leases:2:1: soon is no time in seconds since 1970\n/);
    expect(err).toMatch(/\[LEASES_INVALID\]\n$/);
    expect(await leases.list()).toEqual([]);
    expect(await cli('import', 'nowhere')).toMatchObject({ code: 65, err: expect.stringContaining('nowhere: no such file') });
    expect(await cli('import', file('x', ''), '--format', 'xml')).toMatchObject({ code: 64 });
  });
});

describe('lease remove', () => {
  it('forgets an address, and says when nothing was known of it', async () => {
    await leases.decline('10.77.0.102', NET, Date.now() + HOUR);
    expect(await cli('remove', '10.77.0.102')).toMatchObject({ code: 0, out: '10.77.0.102 is forgotten\n' });
    expect(await leases.list()).toEqual([]);
    expect(await cli('remove', '10.77.0.102')).toMatchObject({ code: 66, err: expect.stringMatching(/nothing is known of 10\.77\.0\.102[\s\S]*LEASE_UNKNOWN/) });
  });
});

describe('lease export', () => {
  beforeEach(async () => {
    await take('10.77.0.100', A, { hostname: 'web01', clientId: '010022275c0aff' });
    await take('10.77.0.101', '52:54:00:00:00:0b');
    await take('10.77.0.103', '52:54:00:00:00:0c', { expiresAt: Date.now() - 1 });
    await leases.decline('10.77.0.102', NET, Date.now() + HOUR);
  });

  it.each(['json', 'kea', 'isc', 'dnsmasq'] as const)('%s holds what is active, and imports into an empty daemon', async (format) => {
    const { out } = await cli('export', '--format', format);
    const before = await leases.list();
    for (const lease of before) await ledger.remove(lease.ip);
    expect((await cli('import', file('export', out))).out).toMatch(new RegExp(`^${format === 'dnsmasq' ? 2 : 3} imported, 0 skipped`));
    expect((await leases.list()).map((lease) => lease.ip)).toEqual(format === 'dnsmasq' ? ['10.77.0.100', '10.77.0.101'] : ['10.77.0.100', '10.77.0.101', '10.77.0.102']);
    expect(await leases.at('10.77.0.100')).toMatchObject({ mac: A, hostname: 'web01', clientId: '010022275c0aff' });
  });

  it('dhcpd reads its form', async () => {
    const out = (await cli('export', '--format', 'isc')).out;
    writeFileSync(join(dir, 'dhcpd.conf'), 'subnet 10.77.0.0 netmask 255.255.255.0 { range 10.77.0.100 10.77.0.120; }\n');
    // Not by its name alone: npm puts a program of the same name, of the package `dhcp`, before it.
    const checked = spawnSync('/usr/sbin/dhcpd', ['-T', '-4', '-cf', join(dir, 'dhcpd.conf'), '-lf', join(dir, file('dhcpd.leases', out))], { encoding: 'utf8' });
    expect({ status: checked.status, complaint: /(corrupt|line \d+|expecting)[^\n]*/.exec(checked.stderr)?.[0] }).toEqual({ status: 0, complaint: undefined });
    expect(checked.stderr).toMatch(/Wrote 3 leases/);
  });
});
