// `rackseed check`: says ok with counts and what it could not look at, or throws every fault of every file; changes nothing.
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loaderAdd } from '../../src/commands/loader.ts';
import { checkCommand, type CheckOptions } from '../../src/commands/check.ts';
import { AppError, FaultsError, formatFault } from '../../src/errors.ts';
import { createArtifactStore } from '../../src/store/artifacts.ts';
import { openDatabase } from '../../src/store/db.ts';
import { good } from './broken-profiles.ts';
import { digestOfBytes } from '../../src/digest.ts';

const SETTINGS = `stateDir: state
dhcp:
  mode: full
  subnets:
    - { subnet: 10.77.0.0/24, serverIp: 10.77.0.1 }
`;
/** The good profiles without post-boot steps, so that the shipped scripts may change freely. */
const PROFILES = good('').map(({ file, text }) => ({ file, text: text.replace(/^postBoot.*\n/m, '') }));

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-check-'));
  mkdirSync(join(dir, 'boot-profiles'));
  for (const { file, text } of PROFILES) writeFileSync(join(dir, 'boot-profiles', file), text);
  writeFileSync(join(dir, 'rackseed.yaml'), SETTINGS);
});
afterEach(() => rmSync(dir, { recursive: true }));

async function check(options: Partial<CheckOptions> = {}): Promise<string> {
  let out = '';
  await checkCommand({ config: join(dir, 'rackseed.yaml'), ...options }, { print: (text) => void (out += text) });
  return out;
}

async function faultsOf(options?: Partial<CheckOptions>): Promise<{ code: string; faults: string[] }> {
  const error: unknown = await check(options).then(
    (out) => new Error(`no fault: ${out}`),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof FaultsError)) throw error;
  return { code: error.code, faults: error.faults.map((fault) => formatFault(fault).replaceAll(`${dir}/`, '')) };
}

describe('rackseed check', () => {
  test('good files: ok with counts, and what could not be looked at', async () => {
    const [ok, ...rest] = (await check()).trim().split('\n');
    expect(ok).toMatch(/rackseed\.yaml, 2 profiles, 3 nodes/);
    expect(rest).toEqual(['not checked: artifact k0s v1.36.1+k0s.0', 'not checked: image debian-k0s']);
  });

  test("the operator's own images are checked too, with what they inherit of the shipped ones", async () => {
    const image = (text: string): void => {
      mkdirSync(join(dir, 'images/own'), { recursive: true });
      writeFileSync(join(dir, 'images/own/image.yaml'), text);
    };
    const count = async (): Promise<number> => Number(/(\d+) image specs/.exec(await check())![1]);
    const shipped = await count();
    image('from: debian-k0s\npackages: [vim]\n');
    expect(await count()).toBe(shipped + 1);
    image('from: debain-k0s\n');
    expect(await faultsOf()).toEqual({ code: 'IMAGE_SPEC_INVALID', faults: ['images/own/image.yaml:1:7: from: there is no image debain-k0s (did you mean debian-k0s?)'] });
  });

  test('it writes nothing, not even a state directory', async () => {
    await check();
    expect(readdirSync(dir).sort()).toEqual(['boot-profiles', 'rackseed.yaml']);
  });

  test('faults of all profiles at once, held against the subnets of the settings', async () => {
    writeFileSync(join(dir, 'boot-profiles', 'c.yaml'), 'boot: local\nnodes: { n4: { macs: [52:54:00:12:34:56], ip: 10.78.0.1 } }\nfoo: 1\n');
    expect(await faultsOf()).toEqual({
      code: 'PROFILES_INVALID',
      faults: [
        'boot-profiles/c.yaml:2:23: mac 52:54:00:12:34:56 is taken by node n1, also at boot-profiles/a.yaml:7:16',
        'boot-profiles/c.yaml:2:47: ip 10.78.0.1 is in no subnet that we serve: 10.77.0.0/24',
        'boot-profiles/c.yaml:3:1: unknown key foo',
      ],
    });
  });

  test('faults of the settings count first', async () => {
    writeFileSync(join(dir, 'rackseed.yaml'), `${SETTINGS}foo: 1\n`);
    expect(await faultsOf()).toEqual({ code: 'CONFIG_INVALID', faults: ['rackseed.yaml:6:1: unknown key foo'] });
  });

  test('beside the state of a daemon, artifacts are looked up in it', async () => {
    const database = openDatabase(join(dir, 'state', 'rackseed.db'));
    await createArtifactStore(database).add({ name: 'k0s', version: 'v1.36.0+k0s.0', digest: digestOfBytes('k0s'), size: 3, addedAt: 0 });
    expect((await faultsOf()).faults).toEqual(['boot-profiles/a.yaml:4:19: artifact k0s has no version v1.36.1+k0s.0 (did you mean v1.36.0+k0s.0?)']);
    await createArtifactStore(database).add({ name: 'k0s', version: 'v1.36.1+k0s.0', digest: digestOfBytes('k0s'), size: 3, addedAt: 0 });
    expect(await check()).not.toContain('artifact');
    await database.close();
  });

  test('beside the state of a daemon, loader sets are looked up in it, and in the directories of the settings', async () => {
    const config = join(dir, 'rackseed.yaml');
    writeFileSync(config, `${SETTINGS}loaders: { sets: { site: ./none }, default: own }\n`);
    writeFileSync(join(dir, 'boot-profiles', 'c.yaml'), 'image: debian-k0s\nloaders: onw\n');
    expect(await faultsOf()).toEqual({ code: 'CONFIG_INVALID', faults: ['rackseed.yaml:6:45: loaders.default is own, and there is no such loader set (add it: rackseed loader add own PATH)'] });
    writeFileSync(join(dir, 'own.kpxe'), 'own');
    await loaderAdd('own', [join(dir, 'own.kpxe')], { config, output: 'table' });
    expect(await faultsOf()).toEqual({ code: 'PROFILES_INVALID', faults: ['boot-profiles/c.yaml:2:10: unknown loader set onw (did you mean own?)'] });
    writeFileSync(join(dir, 'boot-profiles', 'c.yaml'), 'image: debian-k0s\nloaders: own\nloader: own.kpxe\n');
    expect(await check()).toMatch(/^not checked: loader set site: .*none cannot be read/m);
  });

  test('a directory alone is checked without settings, and it says so', async () => {
    let out = '';
    await checkCommand({ profiles: join(dir, 'boot-profiles') }, { print: (text) => void (out += text) });
    expect(out).toContain('ok: 2 profiles, 3 nodes\nnot checked: addresses (no settings)\n');
  });

  test('an unknown repository is one only where settings say which there are', async () => {
    writeFileSync(join(dir, 'boot-profiles', 'c.yaml'), 'image: debian-k0s\npostBoot: { repo: post-bot, ref: main, steps: x }\n');
    expect((await faultsOf()).faults).toEqual(['boot-profiles/c.yaml:2:19: unknown repository post-bot (did you mean post-boot?)']);
    await checkCommand({ profiles: join(dir, 'boot-profiles') }, { print: () => undefined });
  });

  test('no settings where they were said to be is an error of its own', async () => {
    await expect(check({ config: join(dir, 'nothing.yaml') })).rejects.toMatchObject({ code: 'CONFIG_MISSING' } satisfies Partial<AppError>);
  });

  test('a directory that is not there is an error that names it', async () => {
    await expect(check({ profiles: join(dir, 'nowhere') })).rejects.toMatchObject({ code: 'PROFILES_INVALID' });
  });
});
