// The lab's boot LAN with a real ROM on it: what is on the wire, that nothing leads out, and that nothing stays.
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ended } from '../../src/lab/child.ts';
import { consoleTail } from '../../src/lab/console.ts';
import { createLink, type Link } from '../../src/lab/link.ts';
import { labMac, startVm, type VmSpec } from '../../src/lab/vm.ts';
import { asUser, namespaceOf, openDir, processesIn, removeDir, ROOT, start, until, USER_ROOT } from '../lab-process.ts';

let dir: string;
beforeEach(() => (dir = openDir()));
afterEach(() => removeDir(dir));

const vm = (tap: string): VmSpec => ({ name: 'n1', mac: labMac(1), tap, memoryMiB: 128, cpus: 1, firmware: 'bios', accel: 'tcg' });

describe('the link', () => {
  let link: Link;
  beforeEach(async () => void (link = await createLink(2, dir)));
  afterEach(() => link.close());

  test('has a bridge, a tap for each machine, and nothing that leads out', async () => {
    const links = JSON.parse(await link.ns.must(['ip', '-json', 'link'])) as { ifname: string; master?: string }[];
    expect(links.map(({ ifname }) => ifname).sort()).toEqual(['br0', 'lo', 't0', 't1']);
    expect(links.filter(({ master }) => master === 'br0').map(({ ifname }) => ifname)).toEqual(link.taps);
    expect((await link.ns.must(['ip', 'route'])).trim()).toMatch(/^10\.77\.0\.0\/24 dev br0 \S.*$/);
    expect(await link.ns.must(['ip', 'route', 'show', 'default'])).toBe('');
    expect((await link.ns.run(['ip', 'route', 'get', '192.0.2.1'])).stdout).toBe('');
  });

  test('a router advertisement without a default route is sent before an old ROM would have waited for it', async () => {
    // A bridge whose ports are all silent has no carrier and sends nothing.
    const machine = startVm(link.ns, vm(link.taps[0]!), dir);
    const dump = await link.ns.run(['tcpdump', '-nvc', '1', '-i', 'br0', 'icmp6 and ip6[40] == 134'], { timeoutMs: 20_000 });
    await machine.kill();
    expect(dump.stdout).toContain('router lifetime 0s');
    expect(dump.stdout).toContain('fd77::/64');
  });

  test('a QEMU machine asks for an address on its tap, and its console says what it does', async () => {
    const dump = link.ns.run(['tcpdump', '-nc', '1', '-i', 'br0', 'udp port 67'], { timeoutMs: 30_000 });
    const machine = startVm(link.ns, vm(link.taps[0]!), dir);
    expect((await dump).stdout).toContain(`Request from ${labMac(1)}`);
    const said = await until('iPXE on the console', 10_000, async () => ((await consoleTail(machine.console.log, 20)).join('\n').includes('iPXE') ? true : undefined));
    expect(said).toBe(true);
    await machine.kill();
    expect(await machine.exited).toBeUndefined();
  });

  test('QEMU that cannot start tells why', async () => {
    const machine = startVm(link.ns, { ...vm(link.taps[0]!), mac: 'no-such-mac' }, dir);
    expect(await machine.exited).toContain('no-such-mac');
  });

  test('closing ends what others started inside as well', async () => {
    const [program, ...args] = link.ns.wrap(['sleep', '600']);
    const stranger = spawn(program!, args, { stdio: 'ignore' });
    const over = ended(stranger);
    const namespace = namespaceOf(link.ns.pid);
    await until('the stranger inside', 5_000, () => (processesIn(namespace).includes(String(stranger.pid)) ? true : undefined));
    await link.close();
    expect(await over).toBe('killed by SIGKILL');
    expect(processesIn(namespace)).toEqual([]);
  });
});

/** A program that makes a link with a machine on it, says where, and waits to be killed. */
function holder(root: string): string {
  return `
    import { createLink } from '${root}/dist/lab/link.js';
    import { startVm } from '${root}/dist/lab/vm.js';
    process.env.PATH += ':/usr/sbin:/sbin';
    const dir = process.argv[2];
    const link = await createLink(1, dir);
    const vm = startVm(link.ns, ${JSON.stringify(vm('t0'))}, dir);
    vm.exited.then((words) => words && console.log('qemu: ' + words));
    console.log('pid ' + link.ns.pid);
    setInterval(() => {}, 1000);
  `;
}

describe.each([
  ['root', (argv: string[]) => argv, ROOT],
  ['an ordinary user', (argv: string[], at: string) => asUser(argv, at), USER_ROOT],
] as const)('a lab of %s that is killed by SIGKILL', (_who, wrap, root) => {
  test('leaves no process and so no namespace, bridge or tap', async () => {
    const own = join(dir, 'own');
    mkdirSync(own, { mode: 0o777 });
    const program = join(own, 'holder.mjs');
    writeFileSync(program, holder(root));
    await ended(spawn('chmod', ['-R', '777', own]));
    const lab = start(wrap([process.execPath, program, own], dir));
    const pid = await until('the link', 15_000, () => /^pid (\d+)$/m.exec(lab.stdout())?.[1], lab);
    const namespace = namespaceOf(Number(pid));
    await until('holder, dnsmasq and QEMU', 10_000, () => (processesIn(namespace).length >= 3 ? true : undefined), lab);
    lab.child.kill('SIGKILL');
    await lab.ended;
    await until('all of them gone', 5_000, () => (processesIn(namespace).length === 0 ? true : undefined));
    expect(lab.stdout()).not.toContain('qemu:');
  });
});
