// `rackseed check --format json|sarif`: the faults of a broken directory as programs read them. Renew the golden file with: npx vitest run -c test/vitest.config.ts --project unit test/unit/check-formats.test.ts -u
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkCommand, type CheckOptions } from '../../src/commands/check.ts';
import { AppError, ERRORS, FaultsError } from '../../src/errors.ts';
import { SHIPPED } from '../../src/shipped.ts';

const GOLDEN = fileURLToPath(new URL('../golden/check.sarif.json', import.meta.url));

let dir: string;
const write = (file: string, text: string): void => {
  mkdirSync(join(dir, file, '..'), { recursive: true });
  writeFileSync(join(dir, file), text);
};
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-formats-'));
  write('rackseed.yaml', 'stateDir: state\ndhcp: { subnets: [{ subnet: 10.77.0.0/24, serverIp: 10.77.0.1 }] }\n');
  write('boot-profiles/web.yaml', 'image: debian-k0s\nnodes:\n  n1: { macs: ["52:54:00:12:34:56"], ip: 10.77.0.11 }\n');
});
afterEach(() => rmSync(dir, { recursive: true }));

async function check(options: Partial<CheckOptions>): Promise<{ readonly out: string; readonly error: unknown }> {
  let out = '';
  const error: unknown = await checkCommand({ config: join(dir, 'rackseed.yaml'), base: dir, ...options }, { print: (text) => void (out += text) }).then(() => undefined, (thrown: unknown) => thrown);
  return { out, error };
}

/** A fault in each kind of file; one name needs escaping in a URI. */
function breakAll(): void {
  write('boot-profiles/a b.yaml', 'boot: local\nposition: here\n');
  write('boot-profiles/db.yaml', 'image: debian-k0s\npostboot: { repo: x }\nnodes:\n  n2: { macs: ["52:54:00:12:34:56"] }\n');
  write('images/own/image.yaml', 'from: debain-k0s\n');
}

describe('json', () => {
  test('a good directory: what was looked at, and what could not be', async () => {
    const { out, error } = await check({ format: 'json' });
    expect(error).toBeUndefined();
    expect(JSON.parse(out)).toEqual({ ok: true, checked: { settings: 'rackseed.yaml', profiles: 1, nodes: 1, images: expect.any(Number) as number }, notChecked: ['image debian-k0s'], faults: [] });
  });

  test('a broken one: each fault with its code, the document in any case, and the exit code of the text', async () => {
    breakAll();
    const { out, error } = await check({ format: 'json' });
    const { ok, faults } = JSON.parse(out) as { ok: boolean; faults: unknown[] };
    expect(ok).toBe(false);
    expect(faults).toEqual([
      { file: 'boot-profiles/a b.yaml', line: 1, column: 1, code: 'PROFILES_INVALID', message: 'a profile is named after its file, and a b is no name: lower-case letters, digits and . _ -' },
      { file: 'boot-profiles/a b.yaml', line: 2, column: 1, code: 'PROFILES_INVALID', message: 'unknown key position' },
      { file: 'boot-profiles/db.yaml', line: 2, column: 1, code: 'PROFILES_INVALID', message: 'unknown key postboot', hint: 'did you mean postBoot?' },
      { file: 'boot-profiles/web.yaml', line: 3, column: 16, code: 'PROFILES_INVALID', message: expect.stringMatching(/^mac 52:54:00:12:34:56 is taken by node n2, also at /) as string },
      { file: 'images/own/image.yaml', line: 1, column: 7, code: 'IMAGE_SPEC_INVALID', message: 'from: there is no image debain-k0s', hint: 'did you mean debian-k0s?' },
    ]);
    // The faults are on stdout already; stderr gets one line.
    expect(error).toBeInstanceOf(AppError);
    expect(error).not.toBeInstanceOf(FaultsError);
    expect(error).toMatchObject({ code: 'PROFILES_INVALID', message: 'boot-profiles have faults: 5 faults' });
    const text = await check({});
    expect((text.error as FaultsError).exit).toBe((error as AppError).exit);
    expect((text.error as FaultsError).faults).toHaveLength(5);
  });

  test('the settings come first, and a file from elsewhere keeps its whole path', async () => {
    write('rackseed.yaml', 'stateDir: state\nfoo: 1\n');
    const { out, error } = await check({ format: 'json', base: join(dir, 'boot-profiles') });
    expect(error).toMatchObject({ code: 'CONFIG_INVALID', exit: ERRORS.CONFIG_INVALID.exit });
    expect((JSON.parse(out) as { faults: unknown[] }).faults).toEqual([{ file: join(dir, 'rackseed.yaml'), line: 2, column: 1, code: 'CONFIG_INVALID', message: 'unknown key foo' }]);
  });

  test('nothing to check is no document', async () => {
    expect(await check({ format: 'json', config: join(dir, 'none.yaml') })).toMatchObject({ out: '', error: { code: 'CONFIG_MISSING' } });
  });
});

describe('sarif', () => {
  interface Sarif {
    readonly runs: readonly {
      readonly tool: { readonly driver: { readonly version: string; readonly rules: readonly { readonly id: string }[] } };
      readonly results: readonly { readonly ruleId: string; readonly ruleIndex: number; readonly locations: readonly { readonly physicalLocation: { readonly artifactLocation: { readonly uri: string; readonly uriBaseId?: string } } }[] }[];
    }[];
  }

  test('is what it was', async () => {
    breakAll();
    const { out } = await check({ format: 'sarif' });
    const { version } = JSON.parse(readFileSync(SHIPPED.packageJson, 'utf8')) as { version: string };
    await expect(out.replaceAll(dir, 'DIR').replace(`"version": "${version}"`, '"version": "VERSION"')).toMatchFileSnapshot(GOLDEN);
  });

  test('each result names its rule twice alike, and its file from where the reader has the files', async () => {
    breakAll();
    const [run] = (JSON.parse((await check({ format: 'sarif' })).out) as Sarif).runs;
    for (const { ruleId, ruleIndex } of run!.results) expect(run!.tool.driver.rules[ruleIndex]?.id).toBe(ruleId);
    expect(run!.results.map(({ locations }) => locations[0]!.physicalLocation.artifactLocation)).toContainEqual({ uri: 'boot-profiles/a%20b.yaml', uriBaseId: '%SRCROOT%' });
    const elsewhere = (JSON.parse((await check({ format: 'sarif', base: join(dir, 'images') })).out) as Sarif).runs[0]!;
    expect(elsewhere.results[0]!.locations[0]!.physicalLocation.artifactLocation).toEqual({ uri: `file://${dir}/boot-profiles/a%20b.yaml` });
  });

  test('a good directory has no results, and says what was not looked at', async () => {
    const { out, error } = await check({ format: 'sarif' });
    expect(error).toBeUndefined();
    expect(JSON.parse(out)).toMatchObject({ version: '2.1.0', runs: [{ results: [], invocations: [{ executionSuccessful: true, toolExecutionNotifications: [{ level: 'note', message: { text: 'not checked: image debian-k0s' } }] }] }] });
  });
});
