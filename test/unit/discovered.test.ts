// PXE machines that no profile names, as people see them.
import { expect, it } from 'vitest';
import type { BootRequest } from '../../src/boot/request.ts';
import { createDiscovered, DISCOVERED_KEPT } from '../../src/discovered.ts';

const rom = (n: number, more: Partial<BootRequest> = {}): BootRequest => ({ via: 'dhcp', asker: 'rom', mac: `52:54:00:00:${(n >> 8).toString(16).padStart(2, '0')}:${(n & 255).toString(16).padStart(2, '0')}`, ...more });

it('keeps what a machine said, first and last time and count; the newest comes first', () => {
  const discovered = createDiscovered();
  discovered.see(rom(1, { uuid: 'u', vendorClass: 'PXEClient:Arch:00000', arch: 'amd64', firmware: 'bios' }), 10);
  discovered.see(rom(2), 20);
  discovered.see(rom(1, { firmware: 'uefi' }), 30);
  expect(discovered.list()).toEqual([
    { mac: '52:54:00:00:00:01', uuid: 'u', vendorClass: 'PXEClient:Arch:00000', arch: 'amd64', firmware: 'uefi', firstAt: 10, lastAt: 30, count: 2 },
    { mac: '52:54:00:00:00:02', firstAt: 20, lastAt: 20, count: 1 },
  ]);
});

it('a request without a MAC is nobody\'s', () => {
  const discovered = createDiscovered();
  discovered.see({ via: 'dhcp', asker: 'rom' }, 10);
  expect(discovered.list()).toEqual([]);
});

it('a flood of made-up addresses drives itself out, not the machines that ask again', () => {
  const discovered = createDiscovered();
  discovered.see(rom(0), 1);
  discovered.see(rom(0), 2);
  for (let n = 1; n <= 5000; n++) discovered.see(rom(n), 10 + n);
  const list = discovered.list();
  expect([list.length, list[0]!.mac, list.at(-1)!.count]).toEqual([DISCOVERED_KEPT, '52:54:00:00:13:88', 2]);
});

it('of machines that all asked again the one that was seen longest ago goes', () => {
  const discovered = createDiscovered();
  for (let n = 0; n <= DISCOVERED_KEPT; n++) for (const at of [0, 1]) discovered.see(rom(n), n * 2 + at);
  const kept = discovered.list().map(({ mac }) => mac);
  expect([kept.length, kept.includes(rom(0).mac!), kept.includes(rom(1).mac!)]).toEqual([DISCOVERED_KEPT, false, true]);
});
