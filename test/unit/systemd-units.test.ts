// The units that are shipped for systemd, as systemd itself reads them. Needs the Debian package systemd, not a running one.
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const SHIPPED = new URL('../../packaging/systemd/', import.meta.url).pathname;
const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0;

let units: string;

beforeAll(() => {
  units = mkdtempSync(join(tmpdir(), 'rackseed-units-'));
  cpSync(SHIPPED, units, { recursive: true });
  execFileSync(join(units, 'add-card'), ['eth0', 'br-lan'], { env: { ...process.env, UNITS: units } });
});
afterAll(() => rmSync(units, { recursive: true, force: true }));

const analyze = (...argv: string[]) => {
  const { status, stdout, stderr } = spawnSync('systemd-analyze', argv, { encoding: 'utf8', env: { ...process.env, SYSTEMD_UNIT_PATH: `${units}:` } });
  return { status, stdout, stderr };
};

describe.skipIf(!hasSystemd)('systemd', () => {
  it('gives the service an exposure of 2.0 or less', () => {
    const { stdout, status } = analyze('security', '--offline=true', '--threshold=20', join(units, 'rackseed.service'));
    const score = /Overall exposure level for rackseed\.service: ([0-9.]+)/.exec(stdout)?.[1];
    expect(Number(score)).toBeGreaterThan(0);
    expect(Number(score)).toBeLessThanOrEqual(2);
    expect(status).toBe(0);
  });

  it('has nothing to say against the service and the sockets of two cards', () => {
    const names = ['dhcp', 'pxe', 'tftp', 'client'].flatMap((what) => ['eth0', 'br-lan'].map((card) => `rackseed-${what}@${card}.socket`));
    const { stdout, stderr } = analyze('verify', join(units, 'rackseed.service'), ...names.map((name) => join(units, 'rackseed.service.wants', name)));
    // Other units of the machine, and a checkout that is not in /opt, are not ours to judge.
    const ours = `${stdout}${stderr}`.split('\n').filter((line) => line.includes('rackseed') && !/is not executable|No such file or directory/.test(line));
    expect(ours).toEqual([]);
  });
});

describe('the sockets', () => {
  it.each([
    ['dhcp', 67],
    ['pxe', 4011],
    ['tftp', 69],
    ['client', 68],
  ])('%s: port %i, IPv4, under the name that the daemon looks for, and bound to its card', (what, port) => {
    const template = settingsOf(readFileSync(join(units, `rackseed-${what}@.socket`), 'utf8'));
    expect(template).toMatchObject({ ListenDatagram: `0.0.0.0:${port}`, FileDescriptorName: `${what}-%i`, Service: 'rackseed.service', Broadcast: 'yes', ...(what === 'client' ? {} : { ReceiveBuffer: '4M' }) });
    // systemd puts no card for %i in this line, it ignores it: an instance without its drop-in must not open the port on every card.
    expect(template.BindToDevice).toBe('no-such-card');
    expect(readFileSync(join(units, `rackseed-${what}@br-lan.socket.d`, 'card.conf'), 'utf8')).toBe('[Socket]\nBindToDevice=br-lan\n');
  });

  it('are wanted by the service, each of each card', () => {
    expect(readdirSync(join(units, 'rackseed.service.wants')).sort()).toEqual(['client', 'dhcp', 'pxe', 'tftp'].flatMap((what) => [`rackseed-${what}@br-lan.socket`, `rackseed-${what}@eth0.socket`]));
  });
});

function settingsOf(unit: string): Record<string, string> {
  return Object.fromEntries([...unit.matchAll(/^([A-Za-z]+)=(.*)$/gm)].map((match) => [match[1]!, match[2]!]));
}

it('the service starts node with the flags and the environment that npm start gives it, and node knows the flags', () => {
  const { flags, environment } = JSON.parse(readFileSync(new URL('../../src/setup/node-start.json', import.meta.url), 'utf8')) as { flags: string[]; environment: Record<string, string> };
  const { ExecStart, Environment } = settingsOf(readFileSync(join(units, 'rackseed.service'), 'utf8'));
  expect(ExecStart).toContain(`/usr/bin/node ${flags.join(' ')} /opt/`);
  expect(Environment?.split(' ')).toEqual(Object.entries(environment).map(([name, value]) => `${name}=${value}`));
  expect(spawnSync(process.execPath, [...flags, '-e', 'process.exit(7)']).status).toBe(7);
});
