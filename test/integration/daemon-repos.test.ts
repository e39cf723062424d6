// Post-boot repositories behind the running daemon: an upstream that rewrites its history or goes away costs no assigned node its commit.
import { execFile, execFileSync } from 'node:child_process';
import { promisify } from 'node:util';
import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

const dir = mkdtempSync(join(tmpdir(), 'rackseed-upstream-'));
const upstream = join(dir, 'site');
let world: World;
let relay: Relay;
let n1: Machine;

const git = (...args: string[]): string =>
  execFileSync('git', ['-C', upstream, '-c', 'user.name=t', '-c', 'user.email=t@example.net', '-c', 'commit.gpgsign=false', ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();

function commitStep(text: string, ...how: string[]): string {
  mkdirSync(join(upstream, 'web'), { recursive: true });
  writeFileSync(join(upstream, 'web/10-hello'), `#!/bin/sh\necho ${text}\necho unchanged > "$RACKSEED_RESULT"\n`);
  chmodSync(join(upstream, 'web/10-hello'), 0o755);
  git('add', '-A');
  git('commit', '-q', '-m', text, ...how);
  return git('rev-parse', 'HEAD');
}

beforeAll(async () => {
  mkdirSync(upstream);
  git('init', '-q', '-b', 'main');
  commitStep('one');
  world = await startWorld({ repos: { site: { url: upstream } }, profiles: { 'web.yaml': `${PROFILE}postBoot: { repo: site, ref: main, steps: web }\n` } });
  relay = await createRelay();
  n1 = createMachine(relay, world.macs.n1, world.httpPort);
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
  rmSync(dir, { recursive: true, force: true });
});

/** Boots up to its facts; answers the commit that they name, and what the stock client gets when it clones it as the agent does. */
async function factsOfBoot(between: () => Promise<unknown> = async () => undefined) {
  await world.endOpenBoot('n1');
  await n1.dora('ipxe');
  await n1.http('GET', `/script/${n1.mac}`);
  await between();
  const claim = (await n1.http('POST', '/enrol', { body: `mac ${n1.mac}\n` })).text;
  const headers = { authorization: `Bearer ${/^token (\w+)$/m.exec(claim)![1]}` };
  const facts = JSON.parse((await n1.http('GET', `/boots/${/^boot (\w+)$/m.exec(claim)![1]}/facts`, { headers })).text) as { postBoot: { commit: string; url: string } };
  return { commit: facts.postBoot.commit, cloned: await clone(facts.postBoot) };
}

/** With the node's address as its own: connections to the daemon start from there. */
async function clone({ commit, url }: { readonly commit: string; readonly url: string }): Promise<string> {
  const into = join(dir, `clone-${Date.now()}`);
  ip('route', 'replace', 'local', '127.0.0.1', 'dev', 'lo', 'src', n1.ip, 'table', 'local');
  try {
    await promisify(execFile)('git', ['clone', '-q', '--depth', '1', '--branch', `pin/${commit}`, url, into]);
  } finally {
    ip('route', 'replace', 'local', '127.0.0.1', 'dev', 'lo', 'src', '127.0.0.1', 'table', 'local');
  }
  return execFileSync('git', ['-C', into, 'rev-parse', 'HEAD'], { encoding: 'utf8' }).trim();
}

const ip = (...args: string[]): Buffer => execFileSync('ip', args);

it('a push upstream changes nothing before a reload, and a force-push with gc takes no commit from a boot that reads it', async () => {
  const one = git('rev-parse', 'HEAD');
  expect(await factsOfBoot()).toEqual({ commit: one, cloned: one });

  const two = commitStep('two');
  expect(await factsOfBoot()).toEqual({ commit: one, cloned: one });

  // The boot has its script; then history is rewritten, collected, and the daemon told to look.
  const read = await factsOfBoot(async () => {
    commitStep('rewritten', '--amend');
    git('reflog', 'expire', '--expire=now', '--all');
    git('gc', '-q', '--prune=now');
    expect(() => git('cat-file', '-e', two)).toThrow();
    await world.api('/api/reload', 'POST');
  });
  expect(read).toEqual({ commit: one, cloned: one });
  expect(await factsOfBoot()).toEqual({ commit: git('rev-parse', 'HEAD'), cloned: git('rev-parse', 'HEAD') });
});

it('with the upstream away the last good commit is served on, and /readyz says that it is stale', async () => {
  const last = git('rev-parse', 'HEAD');
  renameSync(upstream, `${upstream}.away`);
  await world.api('/api/reload', 'POST');
  expect(await world.apiStatus('/readyz')).toMatchObject({ status: 200, body: { ready: true, reasons: [{ fatal: false, what: expect.stringContaining('repository site is stale') }] } });
  expect(await factsOfBoot()).toEqual({ commit: last, cloned: last });
  renameSync(`${upstream}.away`, upstream);
  await world.api('/api/reload', 'POST');
  expect(await world.api('/readyz')).toEqual({ ready: true, reasons: [] });
});

it('a tag that was pushed a moment ago can be named at once', async () => {
  git('tag', 'v9');
  const next = commitStep('after the tag');
  writeFileSync(join(world.profilesDir, 'web.yaml'), `${PROFILE}postBoot: { repo: site, ref: v9, steps: web }\n`);
  await expect.poll(async () => (await factsOfBoot()).commit, { timeout: 15_000, interval: 500 }).toBe(git('rev-parse', 'v9'));
  expect(next).not.toBe(git('rev-parse', 'v9'));
});
