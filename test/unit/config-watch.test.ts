// Every way in which people and programs change a directory of profiles is heard, once.
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { watchProfiles } from '../../src/config/watch.ts';

let root: string;
let dir: string;
let heard: number;
let watcher: { close(): void } | undefined;

const start = async (): Promise<void> => {
  watcher = watchProfiles(dir, () => heard++);
  await sleep(20);
};
const heardOnce = async (): Promise<void> => {
  await vi.waitFor(() => expect(heard).toBeGreaterThan(0), { timeout: 8_000, interval: 20 });
  heard = 0;
};
/** Longer than the debounce. */
const quiet = async (): Promise<void> => {
  await sleep(350);
  expect(heard).toBe(0);
};
const write = (name: string, text = 'x') => writeFileSync(join(dir, name), text);

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'rackseed-watch-'));
  dir = join(root, 'boot-profiles');
  mkdirSync(dir);
  write('a.yaml');
  heard = 0;
});
afterEach(() => {
  watcher?.close();
  rmSync(root, { recursive: true, force: true });
});

describe('watchProfiles', () => {
  test('nothing is told before something changes', async () => {
    await start();
    await quiet();
  });

  test.each<[string, () => void]>([
    ['a file written in place', () => write('a.yaml', 'y')],
    ['a new file', () => write('b.yml')],
    ['a file removed', () => unlinkSync(join(dir, 'a.yaml'))],
    ['a file replaced by rename, as editors do', () => (write('.a.tmp'), renameSync(join(dir, '.a.tmp'), join(dir, 'a.yaml')))],
    ['a file moved away to a backup and written anew', () => (renameSync(join(dir, 'a.yaml'), join(dir, 'a.yaml~')), write('a.yaml'))],
    ['a Kubernetes ConfigMap swapped by its ..data link', () => symlinkSync('nowhere', join(dir, '..data'))],
  ])('%s is told, also the second time and after that nothing is', async (_what, change) => {
    await start();
    change();
    await heardOnce();
    write('a.yaml', 'z');
    await heardOnce();
    await quiet();
  });

  test('a burst of many events is told once', async () => {
    await start();
    for (let index = 0; index < 50; index++) write(`n${index}.yaml`);
    await vi.waitFor(() => expect(heard).toBeGreaterThan(0), { timeout: 8_000, interval: 20 });
    await sleep(400);
    expect(heard).toBe(1);
  });

  test("editors' own files are not told", async () => {
    await start();
    write('.a.yaml.swp');
    write('a.yaml~');
    write('#a.yaml#');
    write('4913');
    await quiet();
  });

  test.each<[string, () => void]>([
    ['removed and made again at once', () => (rmSync(dir, { recursive: true }), mkdirSync(dir), write('a.yaml'))],
    ['moved away and another put in its place', () => (mkdirSync(join(root, 'new')), renameSync(dir, join(root, 'old')), renameSync(join(root, 'new'), dir))],
    ['replaced together with its parent', () => (renameSync(root, `${root}-old`), mkdirSync(dir, { recursive: true }), rmSync(`${root}-old`, { recursive: true }))],
  ])('a directory %s is told, and its files are heard from then on', async (_what, change) => {
    await start();
    change();
    await heardOnce();
    await sleep(1_200);
    heard = 0;
    write('b.yaml');
    await heardOnce();
  });

  test('a directory that is not there yet is waited for', async () => {
    rmSync(dir, { recursive: true });
    await start();
    await quiet();
    mkdirSync(dir);
    await heardOnce();
    await sleep(400);
    heard = 0;
    write('a.yaml');
    await heardOnce();
  });

  test('a symbolic link to another directory is followed when it moves', async () => {
    mkdirSync(join(root, 'v1'));
    mkdirSync(join(root, 'v2'));
    rmSync(dir, { recursive: true });
    symlinkSync('v1', dir);
    await start();
    symlinkSync('v2', join(root, 'next'));
    renameSync(join(root, 'next'), dir);
    await heardOnce();
    write('a.yaml');
    await heardOnce();
  });

  test('after close nothing is told', async () => {
    await start();
    write('a.yaml', 'y');
    watcher!.close();
    write('b.yaml');
    await quiet();
  });
});
