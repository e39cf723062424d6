// image.yaml: what is refused, and where the fault is said to be.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { AppError, FaultsError, formatFault } from '../../src/errors.ts';
import { forArch, imageNames, imageSchema, isImageName, parseImageSpec, readImageSpec } from '../../src/images/spec.ts';

const SHIPPED = fileURLToPath(new URL('../../images', import.meta.url));
const MINIMAL = 'base: { debian: trixie }\nkernel: { package: linux-image-cloud-amd64 }\n';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'images-spec-'));
  mkdirSync(join(dir, 'one'));
  writeFileSync(join(dir, 'one', 'image.yaml'), MINIMAL);
  writeFileSync(join(dir, 'one', 'motd'), 'hello\n');
  writeFileSync(join(dir, 'outside'), 'x');
});
afterAll(() => rmSync(dir, { recursive: true }));

function faultsOf(text: string): string[] {
  try {
    parseImageSpec(text, 'image.yaml', join(dir, 'one'));
  } catch (error) {
    if (error instanceof FaultsError) return error.faults.map(formatFault);
    throw error;
  }
  return [];
}

describe('image.yaml', () => {
  test('a suite and a kernel are enough', () => {
    expect(parseImageSpec(MINIMAL, 'image.yaml', dir)).toEqual({
      base: { debian: 'trixie', mirror: 'http://deb.debian.org', components: ['main'] },
      arch: ['amd64'],
      kernel: { package: 'linux-image-cloud-amd64', modules: [], optionalModules: [], firmware: [], cmdline: [] },
      ...{ packages: [], remove: [], exclude: [], files: [], users: [], onboot: [] },
      services: { enable: [], disable: [], mask: [], units: [] },
      layout: { readonly: ['/usr'], persist: ['/var', '/home', '/opt', '/usr/local'], config: '/config' },
    });
  });

  test.each([
    ['a key that is mistyped gets the near one', `${MINIMAL}pakages: [git]\n`, ['image.yaml:3:1: unknown key pakages (did you mean packages?)']],
    ['a nested key too', `${MINIMAL}users:\n  - { name: etcd, uuid: 901 }\n`, ['image.yaml:4:5: users.0.uid: missing', 'image.yaml:4:19: unknown key uuid (did you mean uid?)']],
    ['broken YAML says where', 'base: { debian: trixie\n', [expect.stringMatching(/^image\.yaml:2:1: /)]],
    ['a file from nowhere', `${MINIMAL}files:\n  - path: /etc/motd\n`, ['image.yaml:4:5: files.0: needs exactly one of contents, source and symlink']],
    ['a file from two places', `${MINIMAL}files:\n  - { path: /etc/motd, contents: a, symlink: b }\n`, ['image.yaml:4:5: files.0: needs exactly one of contents, source and symlink']],
    ['a mode without quotes is another number in YAML', `${MINIMAL}files:\n  - { path: /etc/motd, contents: a, mode: 0755 }\n`, ['image.yaml:4:43: files.0.mode: write the mode in quotes: "0644"']],
    ['a path that climbs', `${MINIMAL}files:\n  - { path: /etc/../x, contents: a }\n`, ['image.yaml:4:13: files.0.path: write it without //, /./ and /../']],
    ['a file where the kernel mounts', `${MINIMAL}files:\n  - { path: /run/x, contents: a }\n`, ['image.yaml:4:13: files.0.path: is empty in every image: the kernel or systemd mounts over it']],
    ['a relative path', `${MINIMAL}files:\n  - { path: etc/x, contents: a }\n`, ['image.yaml:4:13: files.0.path: an absolute path, such as /etc/motd']],
    ['the same file twice', `${MINIMAL}files:\n  - { path: /a, contents: a }\n  - { path: /a, contents: b }\n`, ['image.yaml:5:13: path /a stands here twice']],
    ['a source that is not there', `${MINIMAL}files:\n  - { path: /a, source: nothing }\n`, [expect.stringMatching(/^image\.yaml:4:25: .*one\/nothing: no such regular file$/)]],
    ['a source outside of the image', `${MINIMAL}files:\n  - { path: /a, source: ../outside }\n`, ["image.yaml:4:25: ../outside is outside of the image's directory"]],
    ['a uid that two users have', `${MINIMAL}users:\n  - { name: a, uid: 901 }\n  - { name: b, uid: 901 }\n`, ['image.yaml:5:21: uid 901 stands here twice']],
    ['a unit that is enabled and masked', `${MINIMAL}services:\n  enable: [a.service]\n  mask: [b.service, a.service]\n`, ['image.yaml:5:21: a.service stands under enable too']],
    ['a unit without its type', `${MINIMAL}services: { enable: [ssh] }\n`, ['image.yaml:3:22: services.enable.0: a unit name with its type, such as ssh.service']],
    ['a package that is an option', `${MINIMAL}packages: [--foo]\n`, ['image.yaml:3:12: packages.0: not a package name']],
    ['a module as a path', MINIMAL.replace('}\n', '}\n').replace('amd64 }', 'amd64, modules: [loop.ko] }'), [expect.stringMatching(/^image\.yaml:2:\d+: kernel\.modules\.0: a module name without path and \.ko/)]],
    ['several at once', 'base: { debian: woody }\nkernel: { modules: loop }\n', ['image.yaml:1:17: base.debian: must be trixie, not woody', 'image.yaml:2:20: kernel.modules: must be a list, such as [a, b], not loop']],
    ['no base', 'kernel: { package: linux-image-amd64 }\n', ['image.yaml:1:1: base: needs exactly one of debian, oci, tree, alpine (such as base: { debian: trixie })']],
    ['two bases', 'base: { debian: trixie, tree: . }\n', ['image.yaml:1:7: base: needs exactly one of debian, oci, tree, alpine']],
    ['a base of a kind that there is not', 'base: { debain: trixie }\n', ['image.yaml:1:9: unknown key debain (did you mean debian?)']],
    ['Debian without a kernel', 'base: { debian: trixie }\nkernel: { modules: [loop] }\n', ['image.yaml:2:9: kernel.package: missing (such as linux-image-cloud-$arch)']],
    ['an archive that is not there', 'base: { oci: os.tar }\n', [expect.stringMatching(/^image\.yaml:1:14: .*one\/os\.tar: no such file or directory$/)]],
    ['a tree that is a file', 'base: { tree: motd }\n', [expect.stringMatching(/^image\.yaml:1:15: .*one\/motd: no such directory$/)]],
    ['a mirror of what is beside image.yaml', 'base: { tree: ., mirror: "http://x" }\n', ['image.yaml:1:26: has no meaning with tree']],
    ['components of another system', 'base: { alpine: v3.22, components: [main] }\n', ['image.yaml:1:36: has no meaning with alpine']],
    ['a component that Debian does not have', 'base: { debian: trixie, components: [universe] }\n', ['image.yaml:1:38: base.components.0: must be main or contrib or non-free or non-free-firmware, not universe']],
    ['a release that YAML reads as a number', 'base: { alpine: 3.22 }\n', ['image.yaml:1:17: base.alpine: the release in quotes, such as "v3.22"']],
    ['a processor that nobody builds for', `${MINIMAL}arch: [amd64, riscv64]\n`, ['image.yaml:3:15: arch.1: must be amd64 or arm64, not riscv64']],
    ['a processor twice', `${MINIMAL}arch: [amd64, amd64]\n`, ['image.yaml:3:15: processor amd64 stands here twice']],
    ['firmware outside of its directory', 'base: { debian: trixie }\nkernel: { package: linux-image-amd64, firmware: ["../../../etc/shadow"] }\n', ['image.yaml:2:50: kernel.firmware.0: a path below /usr/lib/firmware, without ..']],
    ['firmware by an absolute path', 'base: { debian: trixie }\nkernel: { package: linux-image-amd64, firmware: [/lib/firmware/x] }\n', ['image.yaml:2:50: kernel.firmware.0: a path below /usr/lib/firmware, such as bnx2/*.fw']],
    ['a kernel parameter that is ours', 'base: { debian: trixie }\nkernel: { package: linux-image-amd64, cmdline: [quiet, "ip=dhcp"] }\n', ['image.yaml:2:56: kernel.cmdline.1: rackseed sets this parameter itself for each boot']],
    ['two kernel parameters in one', 'base: { debian: trixie }\nkernel: { package: linux-image-amd64, cmdline: [quiet splash] }\n', [expect.stringMatching(/^image\.yaml:2:49: kernel\.cmdline\.0: one parameter an entry/)]],
    ['a package to install and to remove', `${MINIMAL}packages: [git]\nremove: [git]\n`, ['image.yaml:4:10: git stands under packages too']],
    ['a list of services with one twice', `${MINIMAL}services:\n  - ssh.service\n  - { name: ssh.service, contents: a }\n`, ['image.yaml:5:5: unit ssh.service stands here twice']],
    ['a shipped unit without its file', `${MINIMAL}services: [{ name: a.service, source: a }]\n`, [expect.stringMatching(/^image\.yaml:3:39: .*one\/a: no such regular file$/)]],
    ['a shipped unit from two places', `${MINIMAL}services: [{ name: a.service, source: motd, contents: a }]\n`, ['image.yaml:3:12: services.0: needs contents or source, not both']],
    ['a unit in the list without its type', `${MINIMAL}services: [ssh]\n`, ['image.yaml:3:12: services.0: a unit name with its type, such as ssh.service']],
    ["systemd's units for Alpine", 'base: { alpine: v3.22 }\nservices: [ssh.service]\nonboot: [{ name: a, run: b }]\n', [expect.stringMatching(/^image\.yaml:2:12: services\.0: ssh\.service is a unit of systemd, and Alpine has OpenRC/), expect.stringMatching(/^image\.yaml:3:9: onboot: these steps are units of systemd/)]],
    ['an onboot step without anything to run', `${MINIMAL}onboot: [{ name: a }]\n`, ['image.yaml:3:10: onboot.0: needs exactly one of run and source']],
    ['an onboot step whose name is no unit\'s', `${MINIMAL}onboot: [{ name: A/b, run: a }]\n`, ['image.yaml:3:18: onboot.0.name: a name of small letters, digits and inner dashes']],
    ['two onboot steps of one name', `${MINIMAL}onboot: [{ name: a, run: a }, { name: a, run: b }]\n`, ['image.yaml:3:39: step a stands here twice']],
    ['a persistent path in another', `${MINIMAL}layout: { persist: [/var, /var/lib] }\n`, ['image.yaml:3:27: layout.persist: /var/lib is in /var, which is there already']],
    ['a persistent path twice', `${MINIMAL}layout: { persist: [/var, /var] }\n`, ['image.yaml:3:21: layout.persist: /var stands here twice']],
    ['a path that is read-only and persists', `${MINIMAL}layout: { readonly: [/usr, /opt] }\n`, ['image.yaml:1:1: layout.persist: /opt is read-only too']],
    ['a read-only path in one that persists', `${MINIMAL}layout: { readonly: [/usr, /var/lib/x] }\n`, ['image.yaml:3:28: layout.readonly: /var/lib/x is in /var, which persists']],
    ['a persistent /etc', `${MINIMAL}layout: { persist: [/etc] }\n`, [expect.stringMatching(/^image\.yaml:3:21: layout\.persist: \/etc is new at each boot/)]],
    ['a persistent /usr', `${MINIMAL}layout: { persist: [/usr] }\n`, [expect.stringMatching(/^image\.yaml:3:21: layout\.persist: \/usr is the image's own/)]],
    ['a persistent root', `${MINIMAL}layout: { persist: [/] }\n`, ['image.yaml:3:21: layout.persist.0: an absolute path, such as /etc/motd']],
    ['a persistent /run', `${MINIMAL}layout: { persist: [/run/x] }\n`, ['image.yaml:3:21: layout.persist.0: is empty in every image: the kernel or systemd mounts over it']],
    ['a configuration that would be hidden', `${MINIMAL}layout: { config: /var/config }\n`, ["image.yaml:3:19: layout.config: /var/config and /var are in each other's way (a directory of its own, such as /config)"]],
    ['a key that stands twice', `${MINIMAL}packages: [git]\npackages: [curl]\n`, ['image.yaml:4:1: key packages stands twice in one map, also at image.yaml:3:1']],
  ])('%s', (_name, text, expected) => {
    expect(faultsOf(text)).toEqual(expected);
  });

  test('a source beside image.yaml is taken', () => {
    expect(faultsOf(`${MINIMAL}files:\n  - { path: /etc/motd, source: motd }\n`)).toEqual([]);
  });

  test('everything that may stand there is taken', () => {
    const spec = parseImageSpec(
      `base: { debian: trixie, mirror: "http://mirror/", components: [main, non-free-firmware] }
arch: [arm64, amd64]
kernel: { package: linux-image-$arch, modules: [loop], firmware: ["bnx2/*.fw"], cmdline: [console=tty0, "quiet"] }
packages: [git, "grub-efi-$arch"]
remove: [perl]
onboot: [{ name: one, run: "true" }, { name: two, source: motd }]
services: [ssh.service, { name: a.service, contents: "[Service]" }, { name: b.service, source: motd, enable: false }, { name: c.timer, enable: false }]
layout: { persist: [/data], config: /conf }
`,
      'image.yaml',
      join(dir, 'one'),
    );
    expect(spec).toMatchObject({
      base: { debian: 'trixie', mirror: 'http://mirror/', components: ['main', 'non-free-firmware'] },
      arch: ['arm64', 'amd64'],
      kernel: { cmdline: ['console=tty0', 'quiet'], firmware: ['bnx2/*.fw'] },
      services: { enable: ['ssh.service', 'a.service'], disable: ['c.timer'], mask: [], units: [{ name: 'a.service', contents: '[Service]' }, { name: 'b.service', source: join(dir, 'one/motd') }] },
      layout: { readonly: ['/usr'], persist: ['/data'], config: '/conf' },
      onboot: [{ name: 'one', run: 'true' }, { name: 'two', source: join(dir, 'one/motd') }],
    });
    expect(forArch(spec)).toMatchObject({ arch: 'arm64', kernel: { package: 'linux-image-arm64' }, packages: ['git', 'grub-efi-arm64'] });
    expect(forArch(spec, 'amd64')).toMatchObject({ arch: 'amd64', kernel: { package: 'linux-image-amd64' }, packages: ['git', 'grub-efi-amd64'] });
  });

  test('an unknown image names the near one', () => {
    expect(() => readImageSpec(dir, 'ome')).toThrow(expect.objectContaining({ code: 'IMAGE_UNKNOWN', hint: 'did you mean one?' }));
    expect(() => readImageSpec(dir, '../one')).toThrow(AppError);
  });

  test('names that are no directory names are none', () => {
    for (const name of ['..', '.a', 'a/b', '', 'A', 'a b']) expect(isImageName(name), name).toBe(false);
  });
});

describe('the shipped images', () => {
  test('are found, common is none', () => {
    expect(imageNames(SHIPPED)).toContain('debian-k0s');
    expect(imageNames(SHIPPED)).not.toContain('common');
  });

  test.each(imageNames(SHIPPED))('%s has no faults', (name) => {
    expect(readImageSpec(SHIPPED, name).arch).toContain('amd64');
  });

  test.each(imageNames(SHIPPED))('%s names the schema that is made from the code', async (name) => {
    const [first] = readFileSync(join(SHIPPED, name, 'image.yaml'), 'utf8').split('\n');
    expect(first).toBe('# yaml-language-server: $schema=../../docs/schema/image.schema.json');
  });

  // Renew it with: npx vitest run -c test/vitest.config.ts --project unit test/unit/images-spec.test.ts -u
  test('docs/schema/image.schema.json is what the code makes', async () => {
    const { $schema, ...rest } = z.toJSONSchema(imageSchema, { io: 'input', target: 'draft-7', reused: 'inline' });
    const text = `${JSON.stringify({ $schema, title: 'image.yaml', description: 'What an image is made of.', ...rest }, null, 2)}\n`;
    await expect(text).toMatchFileSnapshot(fileURLToPath(new URL('../../docs/schema/image.schema.json', import.meta.url)));
  });
});
