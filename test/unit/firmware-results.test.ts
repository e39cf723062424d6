// The record of `npm run test:firmware` is of the code that stands here: every firmware ready, and nothing on the way there changed since.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { LAB_FIRMWARE } from '../../src/lab/firmware.ts';
// @ts-expect-error plain JavaScript
import { contentOf, record as recordRows, RESULTS, staleness, whatStands } from '../../src/setup/firmware.mjs';
import { ROOT } from '../lab-process.ts';

test('nothing that machines boot through has changed since the recorded run, and no firmware failed in it', () => {
  expect(staleness(ROOT)).toEqual([]);
  const { rows } = JSON.parse(readFileSync(join(ROOT, RESULTS as string), 'utf8')) as { rows: { firmware: string; outcome: string; why?: string }[] };
  expect(rows.map(({ firmware }) => firmware)).toEqual(LAB_FIRMWARE);
  for (const { firmware, outcome, why } of rows) expect([firmware, outcome === 'ready' || (outcome === 'not run' && Boolean(why))]).toEqual([firmware, true]);
});

describe('in a history of its own', () => {
  let root: string;
  const git = (...words: string[]) => execFileSync('git', ['-C', root, '-c', 'user.name=t', '-c', 'user.email=t@example.org', ...words], { encoding: 'utf8' }).trim();
  /** A commit with one more line in this file; answers its id. */
  const commit = (file: string): string => {
    mkdirSync(join(root, file, '..'), { recursive: true });
    writeFileSync(join(root, file), 'line\n', { flag: 'a' });
    git('add', '.');
    git('commit', '-q', '-m', `change ${file}`);
    return git('rev-parse', 'HEAD');
  };
  const record = (of: string, rows: object[] = [{ firmware: 'bios', outcome: 'ready' }]) => {
    mkdirSync(join(root, 'test'), { recursive: true });
    writeFileSync(join(root, RESULTS as string), JSON.stringify({ commit: of, content: contentOf(root) as string, rows }));
  };
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'rackseed-firmware-results-'));
    git('init', '-q');
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  test('the commit of the record itself, and one of other files, make it no older', () => {
    record(commit('src/boot/decide.ts'));
    commit('README.md');
    commit('src/http/api.ts');
    expect(staleness(root)).toEqual([]);
  });

  test.each(['src/boot/decide.ts', 'src/dhcp/reply.ts', 'src/tftp/terms.ts', 'src/http/machines.ts', 'images/common/initrd/init'])('a later change of %s is told, with its commit, and without a history all the same', (file) => {
    record(commit('README.md'));
    commit(file);
    expect(staleness(root)).toEqual([expect.stringMatching(new RegExp(`npm run test:firmware; since then:\\n[0-9a-f]+ change ${file}$`))]);
    rmSync(join(root, '.git'), { recursive: true });
    expect(staleness(root)).toEqual([expect.stringMatching(/npm run test:firmware$/)]);
    record('gone');
    expect(staleness(root)).toEqual([]);
  });

  test('no record and a failed firmware are faults', () => {
    commit('README.md');
    expect(staleness(root)).toEqual([expect.stringContaining('npm run test:firmware')]);
    record('gone', [{ firmware: 'uefi', outcome: 'failed', why: 'no script' }]);
    expect(staleness(root)).toEqual(['uefi failed: no script']);
  });

  test('rows are recorded for the commit that they ran from, and not where something else stood there', () => {
    const rows = [{ firmware: 'bios', outcome: 'ready' }];
    const nothing = { commit: '', uncommitted: '' };
    expect([whatStands(root), recordRows(root, nothing, rows)]).toEqual([nothing, 'git names no commit here']);
    const first = commit('src/boot/decide.ts');
    mkdirSync(join(root, 'test'));
    expect(recordRows(root, whatStands(root), rows)).toBeUndefined();
    expect(JSON.parse(readFileSync(join(root, RESULTS as string), 'utf8'))).toMatchObject({ commit: first, rows });
    // Elsewhere, or the record itself: no matter.
    writeFileSync(join(root, 'README.md'), '');
    const clean = whatStands(root) as object;
    expect(clean).toEqual({ commit: first, uncommitted: '' });
    mkdirSync(join(root, 'src/dhcp'));
    writeFileSync(join(root, 'src/dhcp/reply.ts'), '');
    expect(recordRows(root, whatStands(root), [])).toMatch(/^no commit has these changes:\n.*src\/dhcp\/$/);
    expect(recordRows(root, clean, [])).toMatch(/^no commit has these changes/);
    const second = commit('src/dhcp/reply.ts');
    expect(recordRows(root, clean, [])).toBe(`another commit was checked out meanwhile: ${second}`);
    expect(JSON.parse(readFileSync(join(root, RESULTS as string), 'utf8'))).toMatchObject({ commit: first, rows });
  });
});
