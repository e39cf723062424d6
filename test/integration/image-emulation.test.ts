// Another processor's programs in a workshop: what starts them is registered for the build alone. The emulator here is `echo`, which says what it was given.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { emulationFor, needPrivateRegistration } from '../../src/images/emulation.ts';
import { keptRoot } from '../../src/images/roots.ts';
import { forArch, parseImageSpec } from '../../src/images/spec.ts';
import { openWorkshop, type Workshop } from '../../src/images/workshop.ts';
import { openDir, removeDir } from '../lab-process.ts';

const OTHER = 'arm64';
const never = new AbortController().signal;

let dir: string;
let program: string;
beforeEach(() => {
  dir = openDir();
  program = join(dir, 'program');
  // An ELF header of an aarch64 executable, and nothing behind it.
  const elf = Buffer.alloc(64);
  elf.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  elf.writeUInt16LE(2, 16);
  elf.writeUInt16LE(183, 18);
  writeFileSync(program, elf);
  chmodSync(program, 0o755);
});
afterEach(() => removeDir(dir));

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

function possible(): boolean {
  try {
    needPrivateRegistration();
    return true;
  } catch {
    return false;
  }
}

describe.skipIf(process.arch !== 'x64' || !possible())('a workshop for arm64 on amd64', () => {
  const emulation = emulationFor(OTHER, '', '/bin/echo')!;

  async function run(argv: readonly string[]): Promise<{ code: number; lines: string[] }> {
    mkdirSync(join(dir, 'state'), { recursive: true });
    const shop = openWorkshop(join(dir, 'state'), 'x', emulation, never);
    try {
      const lines: string[] = [];
      const code = await shop.asRoot(argv, (line) => lines.push(line));
      return { code, lines };
    } finally {
      shop.close();
    }
  }

  test('starts such programs by the emulator, and this machine\'s own as ever', async () => {
    expect(await run([program, 'one', 'two'])).toEqual({ code: 0, lines: [`${program} one two`] });
    expect(await run(['sh', '-c', 'ls / | grep -x usr; exit 3'])).toEqual({ code: 3, lines: ['usr'] });
  });

  test('ends what runs there when the build is interrupted', { timeout: 20_000 }, async () => {
    const interruption = new AbortController();
    const seconds = `${3_600 + process.pid}.5`;
    const sleeping = (): string[] => readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && commandOf(pid) === `sleep\0${seconds}\0`);
    mkdirSync(join(dir, 'state'), { recursive: true });
    const shop = openWorkshop(join(dir, 'state'), 'x', emulation, interruption.signal);
    try {
      let end: unknown;
      const started = new Promise<void>((resolve) => void shop.asRoot(['sh', '-c', 'echo started; sleep "$1"; true', 'sh', seconds], () => resolve()).catch((error: unknown) => (end = error)));
      // It waits for its ids meanwhile, and takes its capabilities by another exec than the first.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
      await started;
      await expect.poll(sleeping).toHaveLength(1);
      interruption.abort(new Error('interrupted'));
      await expect.poll(() => end, { timeout: 3_000 }).toMatchObject({ message: 'interrupted' });
      await expect.poll(sleeping, { timeout: 3_000 }).toEqual([]);
    } finally {
      for (const pid of sleeping()) process.kill(Number(pid), 'SIGKILL');
      shop.close();
    }
  });

  test('is root there, whose files are those of the builder outside', async () => {
    const made = join(dir, 'made');
    expect(await run(['sh', '-c', 'id -u && touch "$1" && chown 42:43 "$1" && stat -c %u:%g "$1"', 'sh', made])).toEqual({ code: 0, lines: ['0', '42:43'] });
    if (process.getuid?.() === 0) expect(spawnSync('stat', ['-c', '%u:%g', made], { encoding: 'utf8' }).stdout.trim()).toBe('42:43');
  });

  test('registers nothing outside: such a program is nothing to this machine, before, after and meanwhile', async () => {
    // What the kernel does not know, Node's spawn gives to the shell, which makes nothing of it.
    const outside = (): unknown => spawnSync(program, ['outside'], { encoding: 'utf8' }).stdout.includes('outside');
    expect(outside()).toBe(false);
    const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
    const running = run(['sh', '-c', '"$1" inside; sleep 1', 'sh', program]);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(outside()).toBe(false);
    expect((await running).lines).toEqual([`${program} inside`]);
    expect([outside(), readFileSync('/proc/self/mountinfo', 'utf8')]).toEqual([false, mounts]);
  });
});

describe('a kept root', () => {
  const spec = forArch(parseImageSpec('base: { debian: trixie }\narch: arm64\nkernel: { package: linux-image-cloud-arm64 }\n', 'image.yaml', '/'));
  const inShop = async <T>(work: (shop: Workshop) => Promise<T>): Promise<T> => {
    const shop = openWorkshop(join(dir, 'state'), 'x', undefined, never);
    try {
      return await work(shop);
    } finally {
      shop.close();
    }
  };
  const make = (shop: Workshop): Promise<number> => shop.asRoot(['sh', '-c', 'mkdir -p "$1/dev" "$1/etc" && echo a >"$1/etc/a" && ln "$1/etc/a" "$1/etc/b" && chown 42:43 "$1/etc/a" && touch -d @1 "$1/etc/a" "$1/dev/null"', 'sh', join(shop.dir, 'root')]);
  const archives = (): string[] => readdirSync(join(dir, 'state/cache/roots')).map((name) => join(dir, 'state/cache/roots', name));

  test('comes back with owners, times and hard links, and without devices; another spec has none', async () => {
    await inShop(async (shop) => {
      expect(await make(shop)).toBe(0);
      await keptRoot(join(dir, 'state'), spec).keep(shop, join(shop.dir, 'root'));
    });
    await inShop(async (shop) => {
      const root = join(shop.dir, 'root');
      expect(await keptRoot(join(dir, 'state'), { ...spec, packages: ['git'] }).restore(shop, root)).toBe(false);
      expect(await keptRoot(join(dir, 'state'), spec).restore(shop, root)).toBe(true);
      const lines: string[] = [];
      await shop.asRoot(['stat', '-c', '%u:%g %h %Y', join(root, 'etc/a'), join(root, 'etc/b')], (line) => lines.push(line));
      expect(lines).toEqual(['42:43 2 1', '42:43 2 1']);
      expect(readdirSync(join(root, 'dev'))).toEqual([]);
    });
  });

  test('is made anew when it is a week old, or cannot be read', async () => {
    const kept = keptRoot(join(dir, 'state'), spec);
    await inShop(async (shop) => {
      await make(shop);
      await kept.keep(shop, join(shop.dir, 'root'));
    });
    const [archive] = archives();
    utimesSync(archive!, new Date(), new Date(Date.now() - 8 * 86_400_000));
    expect(await inShop((shop) => kept.restore(shop, join(shop.dir, 'root')))).toBe(false);
    writeFileSync(archive!, 'no archive');
    await inShop(async (shop) => {
      expect([await kept.restore(shop, join(shop.dir, 'root')), existsSync(join(shop.dir, 'root'))]).toEqual([false, false]);
    });
    expect(archives()).toEqual([]);
  });

  test('stays when there is no room for what is in it', async () => {
    const kept = keptRoot(join(dir, 'state'), spec);
    await inShop(async (shop) => {
      await make(shop);
      writeFileSync(join(shop.dir, 'root/big'), Buffer.alloc(1 << 20));
      expect(await kept.keep(shop, join(shop.dir, 'root'))).toBeUndefined();
    });
    await inShop(async (shop) => {
      const root = join(shop.dir, 'root');
      const small: Workshop = { ...shop, asRoot: (argv, onLine) => shop.asRoot(['sh', '-c', 'mount -t tmpfs -o size=64k none "$1"; shift; exec "$@"', 'sh', ...(argv[0] === 'tar' ? [root] : ['/mnt']), ...argv], onLine) };
      expect(await kept.restore(small, root)).toBe(false);
    });
    expect(archives()).toHaveLength(1);
    expect(await inShop((shop) => kept.restore(shop, join(shop.dir, 'root')))).toBe(true);
  });

  test('that cannot be kept is no fault of the build, and said', async () => {
    mkdirSync(join(dir, 'state/cache'), { recursive: true });
    writeFileSync(join(dir, 'state/cache/roots'), '');
    await inShop(async (shop) => {
      await make(shop);
      expect(await keptRoot(join(dir, 'state'), spec).keep(shop, join(shop.dir, 'root'))).toMatch(/EEXIST/);
      rmSync(join(dir, 'state/cache/roots'));
      expect(await keptRoot(join(dir, 'state'), spec).keep(shop, join(shop.dir, 'nothing'))).toMatch(/nothing.*No such file/);
    });
    expect(archives()).toEqual([]);
  });
});

describe.runIf(process.arch === 'x64')('emulationFor', () => {
  test('has nothing to do for this machine\'s own processor', () => {
    expect(emulationFor('amd64', '')).toBeUndefined();
  });

  test('refuses another one without its emulator, with the apt line', () => {
    expect(() => emulationFor(OTHER, `${dir}:/nonexistent`)).toThrow(expect.objectContaining({ code: 'PACKAGES_MISSING', hint: expect.stringMatching(/apt-get install --no-install-recommends qemu-user-static$/) as string }));
  });

  test('takes the emulator from PATH', () => {
    const emulator = join(dir, 'qemu-aarch64-static');
    writeFileSync(emulator, '');
    chmodSync(emulator, 0o755);
    expect(emulationFor(OTHER, `/nonexistent:${dir}`)?.registration).toMatch(new RegExp(`^:qemu-aarch64:M::\\\\x7fELF.*:${emulator}:OCF$`));
  });
});
