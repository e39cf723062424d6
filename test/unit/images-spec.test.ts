// image.yaml: what is refused, and where the fault is said to be.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { AppError, FaultsError, formatFault } from '../../src/errors.ts';
import { imageNames, imageSchema, isImageName, parseImageSpec, readImageSpec } from '../../src/images/spec.ts';

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
    expect(parseImageSpec(MINIMAL, 'image.yaml', dir)).toMatchObject({ arch: 'amd64', packages: [], kernel: { modules: [], optionalModules: [] }, services: { enable: [], disable: [], mask: [] } });
  });

  test.each([
    ['a key that is mistyped gets the near one', `${MINIMAL}pakages: [git]\n`, ['image.yaml:3:1: unknown key pakages (did you mean packages?)']],
    ['a nested key too', `${MINIMAL}users:\n  - { name: etcd, uuid: 901 }\n`, ['image.yaml:4:5: users.0.uid: Invalid input: expected number, received undefined', 'image.yaml:4:19: unknown key uuid (did you mean uid?)']],
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
    ['a package that is an option', `${MINIMAL}packages: [--foo]\n`, ['image.yaml:3:12: packages.0: not a Debian package name']],
    ['a module as a path', MINIMAL.replace('}\n', '}\n').replace('amd64 }', 'amd64, modules: [loop.ko] }'), [expect.stringMatching(/^image\.yaml:2:\d+: kernel\.modules\.0: a module name without path and \.ko/)]],
    ['several at once', 'base: { debian: woody }\nkernel: {}\n', [expect.stringMatching(/^image\.yaml:1:17: base\.debian: /), expect.stringMatching(/^image\.yaml:2:9: kernel\.package: /)]],
  ])('%s', (_name, text, expected) => {
    expect(faultsOf(text)).toEqual(expected);
  });

  test('a source beside image.yaml is taken', () => {
    expect(faultsOf(`${MINIMAL}files:\n  - { path: /etc/motd, source: motd }\n`)).toEqual([]);
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
    expect(readImageSpec(SHIPPED, name).base.debian).toBe('trixie');
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
