// `from` in image.yaml: what an image inherits, what it changes of it, and where a fault of an inherited part is said to be.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FaultsError, formatFault } from '../../src/errors.ts';
import { commonDir, imageNames, readImage, readImageSpec } from '../../src/images/spec.ts';

const SHIPPED = fileURLToPath(new URL('../../images', import.meta.url));
const BASE = `base: { debian: trixie, mirror: "http://one" }
kernel: { package: linux-image-cloud-amd64, modules: [loop], cmdline: [quiet] }
packages: [git, curl]
files:
  - { path: /etc/motd, contents: base }
  - { path: /etc/base, source: beside }
users: [{ name: etcd, uid: 901 }, { name: other, uid: 902 }]
onboot: [{ name: one, run: base }, { name: two, run: base }]
services: { enable: [a.service, b.service], mask: [c.timer] }
`;

let dir: string;
let [own, shipped] = ['', ''];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'images-from-'));
  [own, shipped] = [join(dir, 'own'), join(dir, 'shipped')];
  write(shipped, 'base', BASE);
  writeFileSync(join(shipped, 'base/beside'), 'x');
  mkdirSync(own);
});
afterEach(() => rmSync(dir, { recursive: true }));

function write(where: string, name: string, text: string): void {
  mkdirSync(join(where, name), { recursive: true });
  writeFileSync(join(where, name, 'image.yaml'), text);
}

const read = (name = 'mine') => readImageSpec([own, shipped], name);
const faultsOf = (name = 'mine'): string[] => {
  try {
    read(name);
  } catch (error) {
    if (error instanceof FaultsError) return error.faults.map((fault) => formatFault(fault).replaceAll(`${dir}/`, ''));
    throw error;
  }
  return [];
};

describe('an image that inherits', () => {
  test('nothing more is the same image', () => {
    write(own, 'mine', 'from: base\n');
    expect(read()).toEqual(read('base'));
    expect(read().files[1]).toMatchObject({ source: join(shipped, 'base/beside') });
  });

  test('appends to lists, replaces by path and name, and takes the rest key by key', () => {
    write(
      own,
      'mine',
      `from: base
base: { components: [main, contrib] }
arch: [arm64]
kernel: { package: linux-image-arm64, modules: [overlay, loop], cmdline: [debug] }
packages: [vim, git]
files: [{ path: /etc/motd, contents: mine, mode: "0600" }, { path: /etc/more, contents: more }]
users: [{ name: other, uid: 950 }]
onboot: [{ name: three, run: mine }, { name: one, run: mine }]
services: [c.timer, { name: b.service, enable: false }]
layout: { persist: [/data] }
`,
    );
    expect(read()).toMatchObject({
      base: { debian: 'trixie', mirror: 'http://one', components: ['main', 'contrib'] },
      arch: ['arm64'],
      kernel: { package: 'linux-image-arm64', modules: ['loop', 'overlay'], cmdline: ['quiet', 'debug'] },
      packages: ['git', 'curl', 'vim'],
      files: [{ path: '/etc/motd', contents: 'mine', mode: '0600' }, { path: '/etc/base' }, { path: '/etc/more' }],
      users: [{ name: 'etcd', uid: 901 }, { name: 'other', uid: 950 }],
      onboot: [{ name: 'one', run: 'mine' }, { name: 'two', run: 'base' }, { name: 'three', run: 'mine' }],
      services: { enable: ['a.service', 'c.timer'], disable: ['b.service'], mask: [] },
      layout: { readonly: ['/usr'], persist: ['/data'], config: '/config' },
    });
  });

  test('removes what it does not want, and keeps what an earlier one removed when it wants it', () => {
    write(own, 'less', 'from: base\nremove: [git, perl]\n');
    write(own, 'mine', 'from: less\npackages: [perl]\n');
    expect(read('less')).toMatchObject({ packages: ['curl'], remove: ['git', 'perl'] });
    expect(read()).toMatchObject({ packages: ['curl', 'perl'], remove: ['git'] });
  });

  test('may be made from something else', () => {
    write(own, 'mine', 'from: base\nbase: { tree: . }\n');
    expect(read().base).toEqual({ tree: join(own, 'mine') });
  });

  test('may have the name of the shipped one', () => {
    write(own, 'base', 'from: base\npackages: [vim]\n');
    expect(read('base').packages).toEqual(['git', 'curl', 'vim']);
    // What is shipped does not change by it.
    write(shipped, 'other', 'from: base\n');
    expect(read('other').packages).toEqual(['git', 'curl']);
    expect(imageNames([own, shipped])).toEqual(['base', 'other']);
  });

  test('finds what rackseed ships', () => {
    write(own, 'mine', 'from: debian-k0s\npackages: [vim]\n');
    const [spec, theirs] = [readImageSpec([own, SHIPPED], 'mine'), readImageSpec(SHIPPED, 'debian-k0s')];
    expect(spec).toEqual({ ...theirs, packages: [...theirs.packages, 'vim'] });
    expect(commonDir([own, SHIPPED])).toBe(join(SHIPPED, 'common'));
  });

  test('says where each package is asked for', () => {
    write(own, 'mine', 'from: base\npackages: [vim]\n');
    const source = readImage([own, shipped], 'mine');
    const place = (name: string) => formatFault(source.faultOf('packages', name, 'x')).replace(`${dir}/`, '');
    expect([place('vim'), place('curl'), formatFault(source.faultOfKernel('x')).replace(`${dir}/`, '')]).toEqual(['own/mine/image.yaml:2:12: x', 'shipped/base/image.yaml:3:17: x', 'shipped/base/image.yaml:2:20: x']);
  });
});

describe('a fault', () => {
  test.each([
    ['of what is inherited has its file', { base: `${BASE}pakages: [x]\n`, mine: 'from: base\n' }, ['own/base/image.yaml:10:1: unknown key pakages (did you mean packages?)']],
    ['of both files', { base: 'base: { debian: woody }\n', mine: 'from: base\nfiles: [{ path: /a, source: none }]\n' }, ['own/base/image.yaml:1:17: base.debian: must be trixie, not woody', 'own/mine/image.yaml:2:29: own/mine/none: no such regular file']],
    ['of an unknown image has the near one', { mine: 'from: bsae\n' }, ['own/mine/image.yaml:1:7: from: there is no image bsae (did you mean base?)']],
    ['of a name that climbs', { mine: 'from: ../shipped/base\n' }, ['own/mine/image.yaml:1:7: from: not the name of an image']],
    ['is an image that inherits itself', { mine: 'from: mine\n' }, ['own/mine/image.yaml:1:7: from: mine inherits mine (one of them must stand on its own)']],
    ['is a circle', { mine: 'from: two\n', two: 'from: three\n', three: 'from: two\n' }, ['own/three/image.yaml:1:7: from: two inherits three inherits two (one of them must stand on its own)']],
    ['is a uid that an inherited user has', { mine: 'from: base\nusers: [{ name: x, uid: 902 }]\n' }, ['own/mine/image.yaml:2:25: uid 902 is that of other']],
    ['is an inherited path in the way of a new one', { mine: 'from: base\nlayout: { readonly: [/usr, /var/x] }\n' }, ['own/mine/image.yaml:2:28: layout.readonly: /var/x is in /var, which persists']],
    ['is a unit that a new base cannot know', { mine: 'from: base\nbase: { alpine: v3.22 }\nkernel: { package: linux-virt }\n' }, expect.arrayContaining([expect.stringMatching(/^shipped\/base\/image\.yaml:9:22: services\.enable\.0: a\.service is a unit of systemd/)])],
  ])('%s', (_what, files, expected) => {
    for (const [name, text] of Object.entries(files)) write(own, name, text);
    expect(faultsOf()).toEqual(expected);
  });
});
