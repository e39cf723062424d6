// What differs between two boot sets, and what each difference takes to reach a node.
import { describe, expect, test } from 'vitest';
import { changeWords, diffBootSets } from '../../src/boot-diff.ts';
import type { BootSet } from '../../src/boot/profile.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { bootSet } from './boot-world.ts';

const D = digestOfBytes;
const image = { ...bootSet.image, digest: D('other') };
const [was, is] = [`debian-k0s@${D('image')}`, `debian-k0s@${D('other')}`];

describe('diffBootSets', () => {
  test('equal content is no difference, whoever made it', () => {
    expect(diffBootSets(bootSet, JSON.parse(JSON.stringify(bootSet)) as BootSet)).toEqual([]);
    expect(diffBootSets(undefined, undefined)).toEqual([]);
  });

  test.each<[string, Partial<BootSet>, object[]]>([
    ['another image is one change, whatever else differs in it', { image: { ...image, kernel: { digest: D('k2'), size: 9 } } }, [{ what: 'image', from: was, to: is, needs: 'reboot' }]],
    ['the same build with a UKI made of it', { image: { ...bootSet.image, uki: { digest: D('uki'), size: 3 } } }, [{ what: 'image.uki', to: D('uki'), needs: 'reboot' }]],
    ['the command line, as one', { cmdline: ['console=ttyS0', 'quiet'] }, [{ what: 'cmdline', from: 'console=ttyS0', to: 'console=ttyS0 quiet', needs: 'reboot' }]],
    ['no command line any more', { cmdline: [] }, [{ what: 'cmdline', from: 'console=ttyS0', needs: 'reboot' }]],
    ['root options, each', { root: { state: 'LABEL=s', wipe: true } }, [{ what: 'root.state', from: 'none', to: 'LABEL=s', needs: 'reboot' }, { what: 'root.wipe', to: 'yes', needs: 'reboot' }]],
    ['keys by their count', { sshKeys: ['ssh-ed25519 A'] }, [{ what: 'ssh', to: '1 key', needs: 'reboot' }]],
    ['texts by their size', { config: { 'etc/motd': 'grüezi' } }, [{ what: 'config.etc/motd', to: '7 bytes', needs: 'reboot' }]],
    ['the shell of the initrd stage', { shell: true }, [{ what: 'shell', to: 'yes', needs: 'reboot' }]],
    ['the commit of the steps', { postBoot: { ...bootSet.postBoot!, commit: 'd'.repeat(40) } }, [{ what: 'postBoot.commit', from: 'c'.repeat(40), to: 'd'.repeat(40), needs: 'steps' }]],
    ['artifacts by version and content', { artifacts: { k0s: { version: 'v2', digest: D('k0s'), size: 3 } } }, [{ what: 'artifacts.k0s', from: `v1@${D('k0s')}`, to: `v2@${D('k0s')}`, needs: 'steps' }]],
    ['variables, new and gone', { vars: { role: 'x' } }, [{ what: 'vars.role', to: 'x', needs: 'steps' }, { what: 'vars.zone', from: 'a', needs: 'steps' }]],
  ])('%s', (_what, change, expected) => {
    expect(diffBootSets(bootSet, { ...bootSet, ...change })).toEqual(expected);
  });

  test('no steps any more', () => {
    const { postBoot: _gone, ...rest } = bootSet;
    expect(diffBootSets(bootSet, rest).map(({ what, needs }) => [what, needs])).toEqual([['postBoot.commit', 'steps'], ['postBoot.repo', 'steps'], ['postBoot.steps', 'steps']]);
  });

  test('other texts and keys of the same length are seen', () => {
    const [a, b] = [{ ...bootSet, config: { m: 'aa' }, sshKeys: ['k1'] }, { ...bootSet, config: { m: 'bb' }, sshKeys: ['k2'] }];
    expect(diffBootSets(a, b)).toEqual([{ what: 'ssh', from: '1 key', to: '1 key', needs: 'reboot' }, { what: 'config.m', from: '2 bytes', to: '2 bytes', needs: 'reboot' }]);
  });

  test("the node's own disk is a boot of its own", () => {
    expect(diffBootSets(undefined, bootSet)).toEqual([{ what: 'boot', from: 'local', to: was, needs: 'reboot' }]);
    expect(diffBootSets(bootSet, undefined)).toEqual([{ what: 'boot', from: was, to: 'local', needs: 'reboot' }]);
  });
});

test('changes in words, with short digests and commits', () => {
  expect(changeWords({ what: 'image', from: was, to: is })).toBe(`image ${was.slice(0, 30)} -> ${is.slice(0, 30)}`);
  expect(changeWords({ what: 'postBoot.commit', to: 'd'.repeat(40) })).toBe(`postBoot.commit ${'d'.repeat(12)} (new)`);
  expect(changeWords({ what: 'vars.zone', from: 'a' })).toBe('vars.zone a (gone)');
});
