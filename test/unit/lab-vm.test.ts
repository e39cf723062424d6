// The line that starts a lab machine: what TRAPS 4 says about ROMs and QEMU, and nothing that a shell or QEMU reads differently.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { parseMac } from '../../src/addr.ts';
import { emulatorOf, howToGet, LAB_FIRMWARE, missingPackages, readFirmware } from '../../src/lab/firmware.ts';
import { labMac, qemuArgs, qemuLine, type VmSpec } from '../../src/lab/vm.ts';
import type { Namespace } from '../../src/lab/network.ts';

const N1: VmSpec = { name: 'n1', mac: '52:54:00:4c:42:01', tap: 't0', memoryMiB: 2048, cpus: 2, firmware: 'bios', accel: 'tcg' };

function valueOf(args: readonly string[], option: string): string | undefined {
  const at = args.indexOf(option);
  return at < 0 ? undefined : args[at + 1];
}

describe('qemuArgs', () => {
  test('boots from the network through the tap that is there, with the node\'s own MAC', () => {
    const args = qemuArgs(N1);
    expect(valueOf(args, '-boot')).toBe('n');
    expect(valueOf(args, '-netdev')).toBe('tap,ifname=t0,script=no,downscript=no,id=n0');
    expect(valueOf(args, '-device')).toBe('virtio-net-pci,netdev=n0,mac=52:54:00:4c:42:01');
    expect(args).not.toContain('-drive');
  });

  test('shows what the BIOS and the ROM print on the serial line', () => {
    expect(valueOf(qemuArgs(N1), '-machine')).toBe('q35,graphics=off');
    expect(valueOf(qemuArgs(N1), '-serial')).toBe('stdio');
  });

  test('lets a machine that gives up reboot', () => {
    expect(qemuArgs(N1)).not.toContain('-no-reboot');
  });

  test.each([
    ['kvm', 'host'],
    ['tcg', 'max,-cx16'],
  ] as const)('%s runs with -cpu %s', (accel, cpu) => {
    const args = qemuArgs({ ...N1, accel });
    expect([valueOf(args, '-accel'), valueOf(args, '-cpu')]).toEqual([accel, cpu]);
  });

  test('writes the console to a file and serves it on a socket, and doubles commas for QEMU', () => {
    const args = qemuArgs(N1, { log: '/tmp/a,b/n1.log', socket: '/tmp/a,b/n1.sock' });
    expect(valueOf(args, '-chardev')).toBe('socket,id=console,path=/tmp/a,,b/n1.sock,server=on,wait=off,logfile=/tmp/a,,b/n1.log');
    expect(valueOf(args, '-serial')).toBe('chardev:console');
  });

  test.each(['uefi', 'uefi-http', 'uefi-http-uki', 'uefi-proxy'] as const)('%s is EDK2 with variables of its own, and no ROM on the card', (firmware) => {
    const args = qemuArgs({ ...N1, firmware, vars: '/tmp/a,b/vars.fd' });
    expect(args).toContain('if=pflash,unit=1,format=raw,file=/tmp/a,,b/vars.fd');
    expect(valueOf(args, '-device')).toMatch(/^virtio-net-pci,romfile=,/);
    expect(args.includes('name=opt/org.tianocore/IPv4PXESupport,string=n')).toBe(firmware.startsWith('uefi-http'));
    expect(args).toContain('smm=off');
    expect(() => qemuArgs({ ...N1, firmware })).toThrow(expect.objectContaining({ code: 'BUG' }));
  });

  test('secureboot-own has flash that only system management mode writes, and none of it without', () => {
    const args = qemuArgs({ ...N1, firmware: 'secureboot-own', vars: '/tmp/vars.fd' });
    expect(args).toEqual(expect.arrayContaining(['smm=on', 'driver=cfi.pflash01,property=secure,value=on']));
    expect(args).not.toContain('smm=off');
    expect(args.find((arg) => arg.startsWith('if=pflash,unit=0'))).toMatch(/secboot\.fd$/);
  });

  test.each(['e1000', 'rtl8139'] as const)('bios-%s has that card with its ROM', (card) => {
    expect(valueOf(qemuArgs({ ...N1, firmware: `bios-${card}` }), '-device')).toBe(`${card},netdev=n0,mac=52:54:00:4c:42:01`);
  });

  test('what is of another suite is never to be installed: the bootstrap unpacks it', () => {
    expect(howToGet('secureboot', ['shim-signed/bookworm', 'grub-efi-amd64-signed/bookworm'])).toBe('npm run lab -- --firmware secureboot unpacks them');
    expect(howToGet('secureboot', ['ovmf', 'shim-signed/bookworm', 'ipxe'])).toBe('apt-get install --no-install-recommends ovmf ipxe');
  });

  test('uefi-arm64 is another machine by another QEMU, with nothing of a PC; without its packages it is refused', () => {
    const spec: VmSpec = { ...N1, firmware: 'uefi-arm64', vars: '/tmp/vars.fd' };
    if (missingPackages('uefi-arm64').length > 0) return void expect(() => qemuArgs(spec)).toThrow(expect.objectContaining({ code: 'PACKAGES_MISSING' }));
    expect(emulatorOf('uefi-arm64')).toMatch(/\/qemu-system-aarch64$/);
    const args = qemuArgs(spec);
    expect([valueOf(args, '-machine'), valueOf(args, '-cpu')]).toEqual(['virt', 'cortex-a57']);
    expect(args.find((arg) => arg.startsWith('if=pflash,unit=0'))).toMatch(/AAVMF_CODE\.fd$/);
    expect(args.filter((arg) => arg.startsWith('smm='))).toEqual([]);
  });

  test('firmware that the lab has not is refused with the names of what it has', () => {
    expect(() => readFirmware('efi')).toThrow(expect.objectContaining({ code: 'USAGE', hint: expect.stringContaining('bios-e1000') as string }));
    expect(LAB_FIRMWARE.map(readFirmware)).toEqual(LAB_FIRMWARE);
    // `--help` names them without reading the lab's code.
    expect(readFileSync(new URL('../../src/cli.ts', import.meta.url), 'utf8')).toContain(`'${LAB_FIRMWARE.join(', ')}'`);
  });
});

test('the pasteable line survives a shell word for word', () => {
  const ns = { wrap: (argv: readonly string[]) => ['nsenter', '--target=42', '--net', '--', ...argv] } as unknown as Namespace;
  const spec = { ...N1, name: "it's n1; true" };
  const words = execFileSync('sh', ['-c', `printf '%s\\n' ${qemuLine(ns, spec)}`], { encoding: 'utf8' }).trimEnd().split('\n');
  expect(words).toEqual(['nsenter', '--target=42', '--net', '--', 'qemu-system-x86_64', ...qemuArgs(spec)]);
});

test('each of the sixteen machines has a valid MAC of its own, the same in every run', () => {
  const macs = Array.from({ length: 16 }, (_, i) => labMac(i + 1));
  expect(new Set(macs).size).toBe(16);
  expect(macs.map((mac) => parseMac(mac))).toEqual(macs);
  expect(macs[15]).toBe('52:54:00:4c:42:10');
});
