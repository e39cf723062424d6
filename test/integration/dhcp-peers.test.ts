// The daemon in full mode with real DHCP clients on real links: a boot LAN, a second one, and an office whose card has the default route.
import { execFileSync, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Namespace } from '../../src/lab/network.ts';
import { ended, eventually, ip, openLink, said, script, startLan, watchOutput, type Lan, type Link, type Output } from './lan.ts';

const RESERVED = '52:54:00:00:00:01';
const DYNAMIC = ['52:54:00:00:00:02', '52:54:00:00:00:03'] as const;
const ON_SECOND = '52:54:00:00:00:05';
const STRANGER = '52:54:00:00:00:66';

let boot: Link;
let second: Link;
let office: Link;
let lan: Lan;
let dir: string;
let outputs: Record<'boot' | 'second' | 'office', Output>;
let running: ChildProcess[];

beforeAll(async () => {
  [boot, second, office] = [await openLink('lan0', '10.77.0.1/24'), await openLink('lan1', '10.78.0.1/24'), await openLink('wan0', '192.168.5.2/24')];
  // The wrong card: everything without a better route leaves here.
  ip('route', 'add', 'default', 'via', '192.168.5.1');
});

afterAll(async () => {
  for (const link of [boot, second, office]) await link?.close();
});

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-peers-'));
  script(join(dir, 'udhcpc'), `case $1 in
bound|renew) ip address replace $ip/24 dev $interface; echo "$1 ip=$ip router=$router dns=$dns hostname=$hostname siaddr=$siaddr file=$boot_file lease=$lease domain=$domain end" ;;
nak) echo "nak: $message" ;;
esac`);
  script(join(dir, 'dhclient'), `case $reason in
PREINIT) ip link set $interface up ;;
BOUND|RENEW|REBIND|REBOOT) ip address replace $new_ip_address/24 dev $interface ;;
EXPIRE|FAIL|RELEASE|STOP) ip address flush dev $interface ;;
esac
echo "$reason ip=$new_ip_address hostname=$new_host_name router=$new_routers end"`);
  running = [];
  const more = { mode: 'full', leaseTime: '1h', dns: ['10.77.0.53'], domain: 'rack.test', conflictCheck: 'off' };
  lan = await startLan({
    nodes: {
      n1: { macs: [RESERVED], ip: '10.77.0.11' },
      n2: { macs: [DYNAMIC[0]] },
      n3: { macs: [DYNAMIC[1]] },
      n5: { macs: [ON_SECOND] },
    },
    dhcp: {
      onConflict: 'ignore',
      subnets: [
        { subnet: '10.77.0.0/24', router: '10.77.0.254', pool: '10.77.0.100-10.77.0.101', ...more },
        { subnet: '10.78.0.0/24', router: '10.78.0.254', pool: '10.78.0.100-10.78.0.101', ...more },
      ],
    },
  });
  outputs = { boot: watchOutput('lan0'), second: watchOutput('lan1'), office: watchOutput('wan0') };
});

afterEach(async () => {
  for (const child of running) await ended(child);
  for (const output of Object.values(outputs)) output.close();
  await lan.stop();
  for (const { ns } of [boot, second]) await ns.run(['ip', 'address', 'flush', 'dev', 'eth0']);
  rmSync(dir, { recursive: true });
});

/** The far end of a link gets this MAC. */
async function become(mac: string, { ns }: Link = boot): Promise<void> {
  await ns.must(['ip', 'link', 'set', 'eth0', 'address', mac]);
}

function udhcpc({ ns }: Link, ...more: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return ns.run(['udhcpc', '-i', 'eth0', '-f', '-n', '-q', '-t', '4', '-T', '2', '-s', join(dir, 'udhcpc'), ...more], { timeoutMs: 30_000 });
}

function start(ns: Namespace, ...argv: string[]): ChildProcess {
  const child = ns.spawn(argv, { stdio: ['ignore', 'pipe', 'pipe'] });
  running.push(child);
  return child;
}

const dhclient = ({ ns }: Link, ...more: string[]) => start(ns, 'dhclient', '-4', '-1', '-d', '-sf', join(dir, 'dhclient'), '-lf', join(dir, 'leases'), '-pf', join(dir, 'pid'), '-cf', join(dir, 'dhclient.conf'), ...more, 'eth0');

/** A program that keeps its state below /run and /var/lib gets empty ones; sysfs read-only tells it that no udev will come. */
function inOwnPlace(setup: string, ...argv: string[]): string[] {
  const prepare = `mount -t tmpfs none /run; mount -t tmpfs none /var/lib; mount -t sysfs -o ro none /sys 2>/dev/null || mount -o remount,bind,ro /sys 2>/dev/null; ${setup}; exec "$@"`;
  return ['unshare', '--mount', '--propagation', 'private', '--', 'sh', '-c', prepare, 'sh', ...argv];
}

const leaseAt = (address: string) => lan.stored(({ leases }) => leases.at(address));
const naks = () => lan.logged('dhcp: nak').map(({ why }) => why);

describe('udhcpc', () => {
  it('gets its reserved address, out of the card that has not the default route', async () => {
    await become(RESERVED);
    const { code, stdout } = await udhcpc(boot);
    expect([code, stdout]).toEqual([0, expect.stringContaining('bound ip=10.77.0.11 router=10.77.0.254 dns=10.77.0.53 hostname=n1 siaddr= file= lease=3600 domain=rack.test end')]);
    expect(outputs.boot.left()).toEqual(['2 from 10.77.0.1:67 to 255.255.255.255:68']);
    expect([outputs.second.packets(), outputs.office.packets()]).toEqual([0, 0]);
    expect(await leaseAt('10.77.0.11')).toMatchObject({ mac: RESERVED, holder: 'n1', subnet: '10.77.0.0/24' });
  });

  it('two at once on two cards each get an address of their own subnet, each by its own card and none by the third', async () => {
    await Promise.all([become(DYNAMIC[0]), become(ON_SECOND, second)]);
    const [first, other] = await Promise.all([udhcpc(boot), udhcpc(second)]);
    expect(first.stdout).toContain('bound ip=10.77.0.100 router=10.77.0.254');
    expect(other.stdout).toContain('bound ip=10.78.0.100 router=10.78.0.254');
    expect(outputs.boot.left()).toEqual(['2 from 10.77.0.1:67 to 255.255.255.255:68']);
    expect(outputs.second.left()).toEqual(['2 from 10.78.0.1:67 to 255.255.255.255:68']);
    expect(outputs.office.packets()).toBe(0);
  });

  it('renews by unicast and releases', async () => {
    await become(DYNAMIC[0]);
    const child = start(boot.ns, 'udhcpc', '-i', 'eth0', '-f', '-R', '-t', '4', '-T', '2', '-s', join(dir, 'udhcpc'));
    await said(child, /bound ip=10\.77\.0\.100 .*end/);
    child.kill('SIGUSR1');
    await said(child, /renew ip=10\.77\.0\.100 .*end/);
    expect(outputs.boot.left()).toEqual(['1 from 10.77.0.1:67 to 10.77.0.100:68', '2 from 10.77.0.1:67 to 255.255.255.255:68']);
    child.kill('SIGUSR2');
    await eventually(() => lan.logged('dhcp: release').length).toBe(1);
    expect((await leaseAt('10.77.0.100'))!.expiresAt).toBeLessThanOrEqual(Date.now());
  });

  it('that finds its address in use gets another one, and the first is in quarantine', async () => {
    await become(DYNAMIC[0]);
    ip('address', 'add', '10.77.0.100/32', 'dev', 'lan0');
    try {
      expect((await udhcpc(boot, '-a', '-A', '1')).stdout).toContain('bound ip=10.77.0.101');
      expect(lan.logged('dhcp: address declined, another machine uses it')).toHaveLength(1);
      expect((await leaseAt('10.77.0.100'))!.declinedUntil).toBeGreaterThan(Date.now() + 23 * 3600_000);
    } finally {
      ip('address', 'del', '10.77.0.100/32', 'dev', 'lan0');
    }
  });

  it('that is in no profile gets no packet at all', async () => {
    await become(STRANGER);
    expect((await udhcpc(boot, '-t', '2', '-T', '1')).code).not.toBe(0);
    expect(Object.values(outputs).map((output) => output.packets())).toEqual([0, 0, 0]);
    expect(await lan.stored(({ leases }) => leases.list())).toEqual([]);
  });

  it('that runs in our initrd stage gets the base URL', async () => {
    await become(RESERVED);
    const { stdout } = await udhcpc(boot, '-V', 'rackseed-initrd', '-O', 'bootfile');
    expect(stdout).toMatch(/bound ip=10\.77\.0\.11 .*siaddr=10\.77\.0\.1 file=http:\/\/10\.77\.0\.1:8080 /);
  });

  it('that is no node gives its own name, and the lease keeps it', async () => {
    await lan.stop();
    lan = await startLan({ dhcp: { serve: 'any', onConflict: 'ignore', subnets: [{ subnet: '10.77.0.0/24', mode: 'full', pool: '10.77.0.100-10.77.0.101' }] } });
    await become(STRANGER);
    // With the conflict check on: the reserve of checked addresses is filled within a second.
    expect((await udhcpc(boot, '-x', 'hostname:My-Laptop')).stdout).toMatch(/bound ip=10\.77\.0\.10\d .*hostname=my-laptop /);
    expect(await lan.stored(({ leases }) => leases.list())).toMatchObject([{ mac: STRANGER, holder: STRANGER, hostname: 'my-laptop' }]);
  });
});

describe('dhclient', () => {
  it('gets an address, comes back by INIT-REBOOT after a restart, and releases it', async () => {
    writeFileSync(join(dir, 'dhclient.conf'), '');
    await become(DYNAMIC[0]);
    const first = dhclient(boot);
    // Its lease file is written after its script has run.
    await said(first, /BOUND ip=10\.77\.0\.100 hostname=n2 router=10\.77\.0\.254 end[^]*bound to/);
    await ended(first);
    const before = lan.logged('dhcp: offer').length;
    await said(dhclient(boot), /REBOOT ip=10\.77\.0\.100 hostname=n2 .*end/);
    expect(lan.logged('dhcp: offer')).toHaveLength(before);
    const release = boot.ns.spawn(['dhclient', '-4', '-r', '-d', '-sf', join(dir, 'dhclient'), '-lf', join(dir, 'leases'), '-pf', join(dir, 'pid'), '-cf', join(dir, 'dhclient.conf'), 'eth0'], { stdio: 'ignore' });
    running.push(release);
    await eventually(() => lan.logged('dhcp: release').length).toBe(1);
  });

  it('that comes from another network is told so by a NAK, and gets an address of this one', async () => {
    writeFileSync(join(dir, 'dhclient.conf'), '');
    await become(ON_SECOND, second);
    await become(ON_SECOND);
    const there = dhclient(second);
    await said(there, /BOUND ip=10\.78\.0\.100 .*end[^]*bound to/);
    await ended(there);
    await said(dhclient(boot), /BOUND ip=10\.77\.0\.100 .*end/);
    expect(naks()).toEqual(['10.78.0.100 is not in 10.77.0.0/24']);
  });
});

describe('dhcpcd', () => {
  function dhcpcd(): ChildProcess {
    writeFileSync(join(dir, 'dhcpcd.conf'), `hostname\nclientid\noption domain_name_servers, domain_name, host_name, routers\nscript ${script(join(dir, 'dhcpcd-hook'), 'echo "$reason ip=$new_ip_address host=$new_host_name router=$new_routers end"')}\n`);
    return start(boot.ns, ...inOwnPlace('mkdir -p /var/lib/dhcpcd', 'dhcpcd', '-4', '-B', '-d', '-A', '-f', join(dir, 'dhcpcd.conf'), 'eth0'));
  }

  it('rebinds by broadcast when its server hears no unicast', { timeout: 120_000 }, async () => {
    await lan.stop();
    // T1 after 10 s, T2 after 17 s.
    lan = await startLan({ nodes: { n2: { macs: [DYNAMIC[0]] } }, dhcp: { onConflict: 'ignore', subnets: [{ subnet: '10.77.0.0/24', mode: 'full', pool: '10.77.0.100-10.77.0.101', leaseTime: '20s', conflictCheck: 'off' }] } });
    await become(DYNAMIC[0]);
    execFileSync('nft', ['-f', '-'], { input: 'add table netdev deaf\nadd chain netdev deaf in { type filter hook ingress device lan0 priority 0; }\nadd rule netdev deaf in ip daddr 10.77.0.1 udp dport 67 counter drop\n' });
    try {
      const child = dhcpcd();
      await said(child, /BOUND ip=10\.77\.0\.100 .*end/);
      await said(child, /REBIND ip=10\.77\.0\.100 .*end/, 90_000);
      // It asked its server alone in vain, then everybody, and was answered where it is.
      expect(execFileSync('nft', ['list', 'table', 'netdev', 'deaf'], { encoding: 'utf8' })).toMatch(/counter packets [1-9]/);
      expect(outputs.boot.left()).toEqual(['1 from 10.77.0.1:67 to 10.77.0.100:68', '2 from 10.77.0.1:67 to 255.255.255.255:68']);
    } finally {
      execFileSync('nft', ['delete', 'table', 'netdev', 'deaf']);
    }
  });

  it('gets its reserved address with its host name and routes', async () => {
    await become(RESERVED);
    const child = dhcpcd();
    await said(child, /BOUND ip=10\.77\.0\.11 host=n1 router=10\.77\.0\.254 end/);
    await eventually(() => leaseAt('10.77.0.11')).toMatchObject({ mac: RESERVED, holder: 'n1', clientId: '01525400000001' });
    await eventually(async () => await boot.ns.must(['ip', '-4', 'address', 'show', 'dev', 'eth0'])).toContain('10.77.0.11/24');
  });
});

describe('systemd-networkd', () => {
  it('configures its card from us: address, route, lease file', async () => {
    await become(DYNAMIC[0]);
    writeFileSync(join(dir, '10.network'), '[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n[DHCPv4]\nSendHostname=yes\nHostname=own-name\n');
    // The user that it drops to is root there: a user namespace has no other.
    const child = start(boot.ns, ...inOwnPlace(`mkdir -p /run/systemd/network /run/systemd/netif/leases /run/systemd/netif/links; cp ${join(dir, '10.network')} /run/systemd/network/; chmod -R a+rX /run/systemd; sed 's/^systemd-network:x:[0-9]*:[0-9]*:/systemd-network:x:0:0:/' /etc/passwd > /run/passwd; mount --bind /run/passwd /etc/passwd`, 'env', 'SYSTEMD_LOG_LEVEL=debug', 'SYSTEMD_LOG_TARGET=console', '/lib/systemd/systemd-networkd'));
    await said(child, /eth0: DHCPv4 address 10\.77\.0\.100\/24.*gateway 10\.77\.0\.254/);
    await eventually(async () => await boot.ns.must(['ip', '-4', 'route', 'show', 'default'])).toContain('via 10.77.0.254 dev eth0 proto dhcp');
    // A node keeps its node's name, whatever its system calls itself.
    await eventually(() => leaseAt('10.77.0.100')).toMatchObject({ mac: DYNAMIC[0], holder: 'n2', hostname: 'own-name' });
    // It stops with a RELEASE, as it does by default.
    await ended(child);
    await eventually(() => lan.logged('dhcp: release').length).toBe(1);
  });
});

describe('a restart of the daemon', () => {
  it('keeps the leases: the client\'s renewal is acknowledged by the new one', async () => {
    await become(DYNAMIC[0]);
    const child = start(boot.ns, 'udhcpc', '-i', 'eth0', '-f', '-t', '4', '-T', '2', '-s', join(dir, 'udhcpc'));
    await said(child, /bound ip=10\.77\.0\.100 .*end/);
    await lan.restart();
    child.kill('SIGUSR1');
    await said(child, /renew ip=10\.77\.0\.100 .*end/);
    expect(await leaseAt('10.77.0.100')).toMatchObject({ mac: DYNAMIC[0], holder: 'n2' });
  });
});
