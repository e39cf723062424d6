// Quirks: what a machine is known by, which of several counts, and what docs/HARDWARE.md says of the shipped ones.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { decide, type View } from '../../src/boot/decide.ts';
import { quirksOf, quirkWords, sentBy, SHIPPED_QUIRKS, type KnownMachine, type Quirk } from '../../src/boot/quirks.ts';
import type { BootRequest } from '../../src/boot/request.ts';
import { generationOf } from './boot-world.ts';

const VIRTUALBOX: KnownMachine = { vendorClass: 'PXEClient:Arch:00000:UNDI:002001', arch: 'amd64', macs: ['08:00:27:12:34:56'] };
const GEN8: KnownMachine = { macs: ['9c:8e:99:00:00:01'], manufacturer: 'HP', product: 'ProLiant DL380p Gen8' };
const names = (machine: KnownMachine, operators: readonly Quirk[] = []) => quirksOf(machine, operators).map(({ name }) => name);
const quirk = (match: Quirk['match'], send: Quirk['send'] = { exit: 'sanboot' }, name = 'mine'): Quirk => ({ name, match, send });

describe('a quirk fits', () => {
  const MACHINE: KnownMachine = { vendorClass: 'PXEClient:Arch:00007:UNDI:003016', arch: 'amd64', macs: ['52:54:00:aa:bb:cc'], manufacturer: 'QEMU', product: 'Standard PC (Q35 + ICH9, 2009)' };
  it.each<[string, Quirk['match'], boolean]>([
    ['by the start of the MAC', { mac: '52:54:00' }, true],
    ['not by its middle', { mac: '54:00:aa' }, false],
    ['by the start of the vendor class', { vendorClass: 'PXEClient:Arch:00007*' }, true],
    ['not by the start without a star', { vendorClass: 'PXEClient:Arch:00007' }, false],
    ['by the end', { vendorClass: '*:003016' }, true],
    ['by what stands between stars, in their order', { product: 'standard*q35*2009)' }, true],
    ['not in another order', { product: 'standard*ich9*q35*' }, false],
    ['not when what two stars are between would have to be used twice', { manufacturer: 'QEM*MU' }, false],
    ['in any case of letters', { manufacturer: 'qemu' }, true],
    ['not with a dot for any letter', { manufacturer: 'Q.MU' }, false],
    ['by the processor', { arch: 'amd64' }, true],
    ['when all of several fit', { arch: 'amd64', mac: '52', manufacturer: 'QEMU' }, true],
    ['not when one of several does not', { arch: 'amd64', mac: '53' }, false],
    ['nothing when it says nothing', {}, false],
  ])('%s', (_name, match, fits) => expect(names(MACHINE, [quirk(match)])).toEqual(fits ? ['mine'] : []));

  it('by nothing that is not known of the machine', () => {
    for (const match of [{ vendorClass: 'P*' }, { arch: 'amd64' }, { manufacturer: 'H*' }, { product: 'P*' }] as const) expect(names({ macs: [] }, [quirk(match)])).toEqual([]);
    expect(names({ macs: [] }, [quirk({ mac: '52' })])).toEqual([]);
  });

  it('in the time of its text, however many stars', () => {
    const product = 'a'.repeat(255);
    const before = performance.now();
    expect(names({ macs: [], product }, [quirk({ product: `${'*a'.repeat(120)}*b` })])).toEqual([]);
    expect(performance.now() - before).toBeLessThan(50);
  });
});

describe('of several', () => {
  const one = quirk({ mac: '08:00:27' }, { exit: 'sanboot', blksize: 1024 }, 'one');
  const two = quirk({ arch: 'amd64' }, { exit: 'exit', option43: 'none' }, 'two');

  it('the first that says a member counts, the operators before the shipped', () => {
    expect(quirksOf(VIRTUALBOX, [one, two])).toEqual([
      { name: 'one', by: ['mac prefix 08:00:27'], send: { exit: 'sanboot', blksize: 1024 } },
      { name: 'two', by: ['arch amd64'], send: { option43: 'none' } },
      { name: 'virtualbox-bios', by: ['vendor class PXEClient:Arch:00000*', 'mac prefix 08:00:27'], send: { loader: 'ipxe' } },
    ]);
    expect(sentBy(quirksOf(VIRTUALBOX, [two, one]))).toEqual({ exit: 'exit', option43: 'none', blksize: 1024, loader: 'ipxe' });
  });

  it('what node and profile say comes before all of them, and the words say so', () => {
    const applied = quirksOf(VIRTUALBOX, [one], { loader: 'auto', exit: 'exit' });
    expect(applied.map(quirkWords)).toEqual(['one (by mac prefix 08:00:27; blksize 1024)', 'virtualbox-bios (by vendor class PXEClient:Arch:00000*, mac prefix 08:00:27; all of it is said elsewhere)']);
    expect(sentBy(applied)).toEqual({ blksize: 1024 });
  });

  it('a node says its loader and its exit method, and nothing else by what it is called', () => {
    const node = { exit: 'exit', blksize: 512 } as const;
    expect(sentBy(quirksOf(VIRTUALBOX, [one], node))).toEqual({ blksize: 1024, loader: 'ipxe' });
  });

  it('an operator takes a shipped one back by its usual value', () => {
    expect(sentBy(quirksOf(VIRTUALBOX, [quirk({ mac: '08:00:27' }, { loader: 'auto' })]))).toEqual({ loader: 'auto' });
  });
});

describe('decided by them', () => {
  const node = { name: 'n1', macs: ['08:00:27:12:34:56'], labels: {}, vars: {}, profile: 'k0s-single', source: 'yaml' } as const;
  const generation = generationOf(node);
  const rom: BootRequest = { via: 'dhcp', asker: 'rom', arch: 'amd64', firmware: 'bios', message: 'discover' };
  const view = (more: Partial<View>): View => ({ node, failedInRow: 0, ...more });

  it('the loader of a quirk goes out', () => expect(decide(view({ quirks: { loader: 'ipxe' } }), rom, generation)).toEqual({ kind: 'loader', file: 'ipxe.pxe', via: 'tftp' }));
  it('but not before the one that the node or its profile asks for', () => {
    expect(decide(view({ node: { ...node, loader: 'auto' }, quirks: { loader: 'ipxe' } }), rom, generation)).toMatchObject({ file: 'undionly.kpxe' });
  });
  it('where it cannot run, or the set does not have it, the usual one goes out', () => {
    expect(decide(view({ quirks: { loader: 'snponly' } }), rom, generation)).toMatchObject({ kind: 'loader', file: 'undionly.kpxe' });
    expect(decide(view({ quirks: { loader: 'ipxe' }, loaders: [{ name: 'undionly.kpxe', runsOn: 'bios' }] }), rom, generation)).toMatchObject({ kind: 'loader', file: 'undionly.kpxe' });
  });
  it('the exit method of a quirk counts where the node has none', () => {
    const [local, quirks] = [{ next: 'local' }, { exit: 'sanboot' }] as const;
    expect(decide(view({ ...local, quirks }), rom, generation)).toMatchObject({ kind: 'local', exit: 'sanboot' });
    expect(decide(view({ ...local, quirks, node: { ...node, exit: 'exit' } }), rom, generation)).toMatchObject({ kind: 'local', exit: 'exit' });
    expect(decide(view(local), rom, generation)).toMatchObject({ kind: 'local', exit: 'exit' });
  });
});

describe('the shipped ones', () => {
  it.each<[string, KnownMachine, readonly string[]]>([
    ['VirtualBox with a BIOS', VIRTUALBOX, ['virtualbox-bios']],
    ['VirtualBox with UEFI', { ...VIRTUALBOX, vendorClass: 'PXEClient:Arch:00007:UNDI:003016' }, []],
    ['a ProLiant Gen8', GEN8, ['hp-proliant-gen8']],
    ['a MicroServer Gen8', { ...GEN8, product: 'ProLiant MicroServer Gen8' }, ['hp-proliant-gen8']],
    ['a Gen9', { ...GEN8, product: 'ProLiant DL380 Gen9' }, []],
    ['U-Boot on arm64', { vendorClass: 'PXEClient:Arch:00011:UNDI:003000', arch: 'arm64', macs: [] }, ['u-boot-arm64-proxy']],
    ['QEMU', { vendorClass: 'PXEClient:Arch:00000:UNDI:002001', arch: 'amd64', macs: ['52:54:00:12:34:56'], manufacturer: 'QEMU', product: 'Standard PC (Q35 + ICH9, 2009)' }, []],
  ])('%s', (_name, machine, expected) => expect(names(machine)).toEqual(expected));

  it('are those of docs/HARDWARE.md, each with its evidence', () => {
    const page = readFileSync(new URL('../../docs/HARDWARE.md', import.meta.url), 'utf8').split(/^## Quirks$/m)[1]!.split(/^## /m)[0]!;
    const rows = [...page.matchAll(/^\| `([a-z0-9-]+)` \| (.*?) \| (.*?) \| .*\((https:[^)]+)\).* \|$/gm)].map(([, name, match, send, evidence]) => ({ name, match, send, evidence }));
    const written = (map: object) => Object.entries(map).map(([member, value]) => `\`${member}: ${String(value)}\``).join(', ');
    expect(rows).toEqual(SHIPPED_QUIRKS.map(({ name, evidence, match, send }) => ({ name, match: written(match), send: written(send), evidence })));
  });
});
