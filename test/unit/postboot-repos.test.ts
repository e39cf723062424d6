// Post-boot repositories with real Git: mirrors, pins, the shipped commit, and what Git must never be given.
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { gitComplaint, redact } from '../../src/postboot/git.ts';
import { createRepos, type Repos, type ReposOptions } from '../../src/postboot/repos.ts';

let dir: string;
const started: Repos[] = [];
const quiet: ReposOptions['log'] = { info: () => undefined, warn: () => undefined };

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-repos-'));
  makeSteps(join(dir, 'shipped'));
});
afterEach(async () => {
  await Promise.all(started.splice(0).map((repos) => repos.stop()));
  rmSync(dir, { recursive: true, force: true });
});

function makeSteps(at: string): void {
  mkdirSync(join(at, 'k0s-single'), { recursive: true });
  mkdirSync(join(at, 'lib'), { recursive: true });
  writeFileSync(join(at, 'k0s-single', '10-first'), '#!/bin/sh\nexit 0\n', { mode: 0o755 });
  writeFileSync(join(at, 'k0s-single', 'README'), 'not a step\n', { mode: 0o644 });
  writeFileSync(join(at, 'lib', 'log.sh'), 'say() { :; }\n', { mode: 0o644 });
  symlinkSync('10-first', join(at, 'k0s-single', '20-second'));
}

function sh(cwd: string, ...args: string[]): string {
  const env = { ...process.env, HOME: dir, GIT_CONFIG_NOSYSTEM: '1', GIT_AUTHOR_NAME: 'a', GIT_AUTHOR_EMAIL: 'a@b', GIT_COMMITTER_NAME: 'a', GIT_COMMITTER_EMAIL: 'a@b' };
  return execFileSync('git', args, { cwd, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim();
}

/** A repository with one commit on main, which has a step directory. */
function makeUpstream(): { path: string; commit: string } {
  const path = join(dir, 'upstream');
  makeSteps(path);
  sh(path, 'init', '-q', '-b', 'main');
  sh(path, 'add', '-A');
  sh(path, 'commit', '-q', '-m', 'one');
  return { path, commit: sh(path, 'rev-parse', 'HEAD') };
}

async function start(repos: Record<string, { url: string; refreshSeconds: number }> = {}, more: Partial<ReposOptions> = {}): Promise<Repos> {
  const made = createRepos({ stateDir: join(dir, 'state'), shippedDir: join(dir, 'shipped'), repos, log: quiet, now: () => 1_000, ...more });
  started.push(made);
  await made.start();
  return made;
}

describe('the shipped repository', () => {
  test('has the same commit id from two directories and in two state directories', async () => {
    const one = await (await start()).resolve('post-boot', 'main');
    cpSync(join(dir, 'shipped'), join(dir, 'elsewhere'), { recursive: true, verbatimSymlinks: true });
    const old = new Date(86_400_000);
    utimesSync(join(dir, 'elsewhere', 'lib', 'log.sh'), old, old);
    chmodSync(join(dir, 'elsewhere', 'lib', 'log.sh'), 0o600);
    const two = await (await start({}, { stateDir: join(dir, 'state2'), shippedDir: join(dir, 'elsewhere') })).resolve('post-boot', 'main');
    expect(one?.commit).toMatch(/^[0-9a-f]{40}$/);
    expect(two).toEqual(one);
  });

  test('has another commit id when an exec bit or a byte changes, and the old commit stays when pinned', async () => {
    const repos = await start();
    const first = (await repos.resolve('post-boot', 'main'))!.commit;
    await repos.pin('post-boot', first);
    chmodSync(join(dir, 'shipped', 'k0s-single', 'README'), 0o755);
    const second = (await (await start()).resolve('post-boot', 'main'))!.commit;
    writeFileSync(join(dir, 'shipped', 'lib', 'log.sh'), 'other\n');
    const again = await start();
    expect(new Set([first, second, (await again.resolve('post-boot', 'main'))!.commit]).size).toBe(3);
    expect(await again.resolve('post-boot', `pin/${first}`)).toEqual({ commit: first });
  });

  test('keeps modes and links in a clone, and does not heed the user\'s Git settings', async () => {
    const before = (await (await start()).resolve('post-boot', 'main'))!.commit;
    writeFileSync(join(dir, 'shipped', '.gitattributes'), '*.sh text eol=crlf\n');
    const repos = await start();
    expect((await repos.resolve('post-boot', 'main'))!.commit).not.toBe(before);
    const listed = sh(repos.dir('post-boot')!, 'ls-tree', '-r', 'main');
    expect(listed.split('\n').map((line) => line.replace(/ blob \w+\t/, ' '))).toEqual(['100644 .gitattributes', '100755 k0s-single/10-first', '120000 k0s-single/20-second', '100644 k0s-single/README', '100644 lib/log.sh']);
    expect(sh(repos.dir('post-boot')!, 'show', 'main:lib/log.sh')).toBe('say() { :; }');
  });

  test('of this installation has the k0s-single steps, each of them executable', async () => {
    const shippedDir = new URL('../../post-boot', import.meta.url).pathname;
    const repos = await start({}, { shippedDir });
    const { commit } = (await repos.resolve('post-boot', 'main'))!;
    expect(await repos.list('post-boot', commit)).toEqual(['k0s-single']);
    const listed = sh(repos.dir('post-boot')!, 'ls-tree', commit, 'k0s-single/').split('\n');
    expect(listed.map((line) => `${line.slice(0, 6)} ${line.split('/').at(-1)}`)).toEqual(['100755 10-storage', '100755 20-kernel', '100755 30-k0s', '100755 40-ready']);
  });

  test('without any script in it is an error with a hint', async () => {
    mkdirSync(join(dir, 'nothing'));
    await expect(start({}, { shippedDir: join(dir, 'nothing') })).rejects.toMatchObject({ code: 'GIT_FAILED', hint: expect.any(String) as string });
  });
});

describe('a mirror', () => {
  test.each([
    ['a plain path', (path: string) => path],
    ['a file URL', (path: string) => pathToFileURL(path).href],
  ])('of %s resolves branches, tags, full refs and commit ids', async (_name, urlOf) => {
    const { path, commit } = makeUpstream();
    sh(path, 'tag', '-a', '-m', 'annotated', 'v1');
    const repos = await start({ site: { url: urlOf(path), refreshSeconds: 300 } });
    for (const ref of ['main', 'v1', 'refs/heads/main', 'refs/tags/v1', commit]) expect(await repos.resolve('site', ref), ref).toEqual({ commit });
    expect(repos.status()).toContainEqual({ name: 'site', url: urlOf(path), stale: false, lastGoodAt: 1_000 });
  });

  test('tells which directories have steps, for "did you mean"', async () => {
    const { path, commit } = makeUpstream();
    const repos = await start({ site: { url: path, refreshSeconds: 300 } });
    expect(await repos.list('site', commit)).toEqual(['k0s-single']);
    expect(await repos.hasSteps('site', commit, 'k0s-single')).toBe(true);
    expect(await repos.hasSteps('site', commit, 'lib')).toBe(false);
    expect(await repos.hasSteps('site', commit, '../k0s-single')).toBe(false);
  });

  test('keeps a pinned commit through a force-push, and gc with prune on both sides', async () => {
    const { path, commit } = makeUpstream();
    const repos = await start({ site: { url: path, refreshSeconds: 300 } });
    await repos.pin('site', commit);
    sh(path, 'commit', '-q', '--amend', '-m', 'other history');
    sh(path, 'reflog', 'expire', '--expire=now', '--all');
    sh(path, 'gc', '-q', '--prune=now');
    expect(() => sh(path, 'cat-file', '-e', commit)).toThrow();
    await repos.refresh('site');
    sh(repos.dir('site')!, 'gc', '-q', '--prune=now');
    expect(await repos.resolve('site', 'main')).toEqual({ commit: sh(path, 'rev-parse', 'HEAD') });
    sh(dir, 'clone', '-q', '--depth', '1', '--branch', `pin/${commit}`, pathToFileURL(repos.dir('site')!).href, 'cloned');
    expect(sh(join(dir, 'cloned'), 'rev-parse', 'HEAD')).toBe(commit);
  });

  test('without a pin loses what upstream forced away', async () => {
    const { path, commit } = makeUpstream();
    const repos = await start({ site: { url: path, refreshSeconds: 300 } });
    await repos.pin('site', commit);
    await repos.unpinExcept('site', new Set([commit]));
    expect(await repos.resolve('site', commit)).toEqual({ commit });
    sh(path, 'commit', '-q', '--amend', '-m', 'other history');
    await repos.refresh('site');
    await repos.unpinExcept('site', new Set());
    sh(repos.dir('site')!, 'gc', '-q', '--prune=now');
    expect(await repos.resolve('site', commit)).toBeUndefined();
  });

  test('of an upstream that is down serves its last good state, says stale and since when, and heals', async () => {
    const { path, commit } = makeUpstream();
    const settings = { site: { url: path, refreshSeconds: 300 } };
    await (await start(settings)).stop();
    renameSync(path, `${path}.away`);
    const repos = await start(settings, { now: () => 2_000 });
    // Machines need not wait for an upstream that is down: it is served at once, and stale when the fetch has failed.
    expect(await repos.resolve('site', 'main')).toEqual({ commit });
    const statusOf = () => repos.status().find((repo) => repo.name === 'site');
    await vi.waitFor(() => expect(statusOf()).toMatchObject({ stale: true, lastGoodAt: 1_000 }), { timeout: 10_000 });
    const status = statusOf();
    expect(status?.error).toMatch(/not appear to be a git repository|does not exist/);
    await expect(repos.refresh('site')).rejects.toMatchObject({ code: 'GIT_FAILED', hint: expect.any(String) as string });
    renameSync(`${path}.away`, path);
    await repos.refresh('site');
    expect(repos.status().find((repo) => repo.name === 'site')).toEqual({ name: 'site', url: path, stale: false, lastGoodAt: 2_000 });
  });

  test('that never had its upstream is stale, resolves nothing, and the daemon starts all the same', async () => {
    const repos = await start({ site: { url: join(dir, 'nowhere'), refreshSeconds: 300 } });
    expect(repos.status().find((repo) => repo.name === 'site')).toMatchObject({ stale: true });
    expect(await repos.resolve('site', 'main')).toBeUndefined();
    await expect(repos.pin('site', '0'.repeat(40))).rejects.toMatchObject({ code: 'GIT_FAILED' });
  });

  test('removes a lock that a power cut left, but not one that is in use', async () => {
    const { path } = makeUpstream();
    const repos = await start({ site: { url: path, refreshSeconds: 300 } });
    const lock = join(repos.dir('site')!, 'refs', 'upstream', 'heads', 'main.lock');
    mkdirSync(join(lock, '..'), { recursive: true });
    writeFileSync(lock, '');
    sh(path, 'commit', '-q', '--allow-empty', '-m', 'two');
    await expect(repos.refresh('site')).rejects.toThrow(/lock/);
    utimesSync(lock, 0, 0);
    await repos.refresh('site');
    expect(existsSync(lock)).toBe(false);
    expect(await repos.resolve('site', 'main')).toEqual({ commit: sh(path, 'rev-parse', 'HEAD') });
  });

  test('does not run hooks of its own or of the upstream', async () => {
    const { path } = makeUpstream();
    const repos = await start({ site: { url: path, refreshSeconds: 300 } });
    for (const hooks of [join(repos.dir('site')!, 'hooks'), join(path, '.git', 'hooks')]) {
      mkdirSync(hooks, { recursive: true });
      for (const name of ['reference-transaction', 'post-update', 'pre-auto-gc']) writeFileSync(join(hooks, name), `#!/bin/sh\ntouch ${join(dir, 'hooked')}\n`, { mode: 0o755 });
    }
    sh(path, '-c', 'core.hooksPath=/dev/null', 'commit', '-q', '--allow-empty', '-m', 'two');
    await repos.refresh('site');
    expect(existsSync(join(dir, 'hooked'))).toBe(false);
  });

  test('of an upstream that belongs to another user can be fetched, because the operator named it', async (context) => {
    if (process.getuid?.() !== 0) return context.skip('only root can give a directory away');
    const { path, commit } = makeUpstream();
    execFileSync('chown', ['-R', '1234', path]);
    expect(await (await start({ site: { url: path, refreshSeconds: 300 } })).resolve('site', 'main')).toEqual({ commit });
  });
});

describe('Git is never given', () => {
  test.each([
    ['an option as URL', '--upload-pack=touch x'],
    ['a command as protocol', 'ext::sh -c touch% x'],
    ['a command without spaces as protocol', 'ext::touch'],
    ['plain http', 'http://git.example.org/x.git'],
    ['the git protocol', 'git://git.example.org/x.git'],
    ['ftp', 'ftp://git.example.org/x.git'],
    ['a relative path', 'srv/git/x.git'],
    ['an ssh host that is an option', 'ssh://-oProxyCommand=touch/x'],
    ['an ssh host that is an option, in the short form', '-oProxyCommand=touch:x'],
    ['a path that is an option, in the short form', 'git@host:-x'],
    ['a newline', 'https://git.example.org/x\n[core]'],
    ['nothing', ''],
  ])('%s', (_name, url) => {
    expect(() => createRepos({ stateDir: dir, shippedDir: dir, repos: { site: { url, refreshSeconds: 1 } }, log: quiet, now: () => 0 })).toThrow(AppError);
  });

  test.each(['https://git.example.org/x.git', 'https://user@git.example.org:8443/x', 'ssh://git@git.example.org:22/x.git', 'git@git.example.org:team/x.git', 'file:///srv/git/x.git', '/srv/git/x.git'])('but %s is fine', (url) => {
    expect(() => createRepos({ stateDir: dir, shippedDir: dir, repos: { site: { url, refreshSeconds: 1 } }, log: quiet, now: () => 0 })).not.toThrow();
  });

  test('an expression, an option or a hidden name as ref', async () => {
    const { path } = makeUpstream();
    const repos = await start({ site: { url: path, refreshSeconds: 300 } });
    const hostile = ['--all', '-x', 'main^{/secret}', 'main~1', 'HEAD', '@', '@{u}', 'main:lib', 'a..b', 'refs/upstream/heads/main', 'refs/heads/', 'main.lock', '../x', 'main\n', '', 'x'.repeat(300)];
    for (const ref of hostile) expect(await repos.resolve('site', ref), JSON.stringify(ref)).toBeUndefined();
  });

  test('a repository name that nobody configured', async () => {
    const repos = await start();
    await expect(repos.resolve('../x', 'main')).rejects.toMatchObject({ code: 'GIT_FAILED', hint: expect.stringContaining('post-boot') as string });
    expect(repos.dir('../x')).toBeUndefined();
    expect(() => createRepos({ stateDir: dir, shippedDir: dir, repos: { 'post-boot': { url: '/x', refreshSeconds: 1 } }, log: quiet, now: () => 0 })).toThrow(/shipped/);
  });
});

test('credentials in a URL are shown to nobody', () => {
  expect(redact('see https://user:secret@git.example.org/x')).toBe('see https://git.example.org/x');
  expect(gitComplaint(new Error("Cloning\nfatal: unable to access 'https://token@h/x': refused\nmore"))).toBe("unable to access 'https://h/x': refused");
});
