// Read-only smart Git over a real daemon port, with the stock client.
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import Fastify, { type FastifyInstance } from 'fastify';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Booter } from '../../src/booter.ts';
import { gitRoutes, type GitLimits } from '../../src/http/git.ts';
import { createRepos, type Repos } from '../../src/postboot/repos.ts';

let dir: string;
let repos: Repos;
let commit: string;
let big: string;
const apps: FastifyInstance[] = [];
const quiet = { info: () => undefined, warn: () => undefined };
const known: Pick<Booter, 'ask'> = { ask: async () => ({ decision: { kind: 'boot', bootSet: 'sha256:00' } }) };
const CHILD_PATTERN = 'upload-pack';

beforeAll(async () => {
  try {
    execFileSync('ip', ['link', 'set', 'lo', 'up'], { stdio: 'ignore' });
  } catch {
    // already up, and not ours to set: the namespace was made by an ordinary user's wrapper
  }
  dir = mkdtempSync(join(tmpdir(), 'rackseed-git-'));
  mkdirSync(join(dir, 'shipped', 'k0s-single'), { recursive: true });
  writeFileSync(join(dir, 'shipped', 'k0s-single', '10-first'), '#!/bin/sh\n', { mode: 0o755 });
  const upstream = join(dir, 'upstream');
  mkdirSync(upstream);
  const git = (...args: string[]) => execFileSync('git', ['-c', 'user.name=a', '-c', 'user.email=a@b', ...args], { cwd: upstream, encoding: 'utf8' }).trim();
  git('init', '-q', '-b', 'main');
  // More than pipes and sockets buffer, and nothing that compresses.
  writeFileSync(join(upstream, 'noise'), Buffer.from(Array.from({ length: 24 << 20 }, (_, i) => (Math.imul(i ^ (i >>> 7), 0x9e3779b1) >>> 13) & 255)));
  git('add', '-A');
  git('commit', '-q', '-m', 'one');
  big = git('rev-parse', 'HEAD');
  repos = createRepos({ stateDir: join(dir, 'state'), shippedDir: join(dir, 'shipped'), repos: { site: { url: upstream, refreshSeconds: 300 } }, log: quiet, now: Date.now });
  await repos.start();
  commit = (await repos.resolve('post-boot', 'main'))!.commit;
  await repos.pin('post-boot', commit);
  await repos.pin('site', big);
});
afterEach(async () => {
  await Promise.all(apps.splice(0).map((app) => app.close()));
});
afterAll(async () => {
  await repos.stop();
  rmSync(dir, { recursive: true, force: true });
});

async function serve(options: { booter?: Pick<Booter, 'ask'>; limits?: Partial<GitLimits>; dir?: Repos['dir'] } = {}): Promise<{ base: string; port: number; app: FastifyInstance }> {
  const app = Fastify({ forceCloseConnections: true });
  apps.push(app);
  await app.register(gitRoutes, { repos: { environment: repos.environment, dir: options.dir ?? repos.dir }, booter: options.booter ?? known, log: quiet, ...(options.limits ? { limits: options.limits } : {}) });
  await app.listen({ host: '127.0.0.1', port: 0 });
  const { port } = app.server.address() as AddressInfo;
  return { base: `http://127.0.0.1:${port}`, port, app };
}

interface Ran {
  readonly code: number;
  readonly out: string;
}

let clones = 0;
function client(...args: string[]): Promise<Ran> {
  return new Promise((resolve) => {
    execFile('git', args, { cwd: dir, env: { ...process.env, HOME: dir, LC_ALL: 'C', GIT_TERMINAL_PROMPT: '0' } }, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code) : 0, out: `${stdout}${stderr}` });
    });
  });
}

async function clone(base: string, repo: string, sha: string, ...config: string[]): Promise<Ran & { readonly head: string; readonly path: string }> {
  const path = join(dir, `clone-${++clones}`);
  const ran = await client(...config, 'clone', '--quiet', '--depth', '1', '--branch', `pin/${sha}`, `${base}/git/${repo}.git`, path);
  const head = ran.code === 0 ? (await client('-C', path, 'rev-parse', 'HEAD')).out.trim() : ran.out;
  return { ...ran, head, path };
}

/** upload-pack processes on our bare repositories. */
function childrenLeft(): number {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      return line.includes(CHILD_PATTERN) && line.includes(join(dir, 'state'));
    } catch {
      return false;
    }
  }).length;
}

async function until(what: () => boolean): Promise<void> {
  while (!what()) await new Promise((resolve) => setTimeout(resolve, 20));
}

describe('the stock client', () => {
  test.each(['2', '1', '0'])('clones the pinned commit over protocol version %s', async (version) => {
    const { base } = await serve();
    const cloned = await clone(base, 'post-boot', commit, '-c', `protocol.version=${version}`);
    expect(cloned.head).toBe(commit);
    expect(readFileSync(join(cloned.path, 'k0s-single', '10-first'), 'utf8')).toBe('#!/bin/sh\n');
  });

  test('clones eight times at once, with fewer children than clones', async () => {
    const { base } = await serve({ limits: { children: 3 } });
    const cloned = await Promise.all(Array.from({ length: 8 }, (_, i) => clone(base, i % 2 ? 'site' : 'post-boot', i % 2 ? big : commit)));
    expect(cloned.map((one) => one.head)).toEqual(cloned.map((_, i) => (i % 2 ? big : commit)));
    expect(childrenLeft()).toBe(0);
  });

  test('sees branches only: the pins, and main of the shipped repository', async () => {
    const { base } = await serve();
    expect((await client('ls-remote', `${base}/git/site.git`)).out.trim().split('\n')).toEqual([`${big}\trefs/heads/pin/${big}`]);
    const shipped = (await client('ls-remote', `${base}/git/post-boot.git`)).out;
    expect(shipped.trim().split('\n').map((line) => line.split('\t')[1])).toEqual(['HEAD', 'refs/heads/main', `refs/heads/pin/${commit}`]);
  });

  test('finds a repository by its whole name, dots, dashes and all, and by nothing less', async () => {
    const { base } = await serve({ dir: (name) => (name === 'v1.2.git-x' ? repos.dir('post-boot') : undefined) });
    expect((await clone(base, 'v1.2.git-x', commit)).head).toBe(commit);
    for (const less of ['v1.2', 'v1', 'x', '']) expect((await clone(base, less, commit)).out).toContain('not found');
  });

  test('cannot push', async () => {
    const { base } = await serve();
    const { path } = await clone(base, 'post-boot', commit);
    const pushed = await client('-C', path, 'push', 'origin', 'HEAD:refs/heads/main');
    expect(pushed.code).not.toBe(0);
    expect(pushed.out).toContain('403');
    const posted = await fetch(`${base}/git/post-boot.git/git-receive-pack`, { method: 'POST', body: '0000' });
    expect([posted.status, await posted.text()]).toEqual([403, 'REQUEST_INVALID: this repository is read-only\n']);
  });

  test('gets an error, not an empty clone, for a pin that does not exist', async () => {
    const { base } = await serve();
    const cloned = await clone(base, 'post-boot', '0'.repeat(40));
    expect(cloned.code).not.toBe(0);
    expect(cloned.out).toContain('not found');
  });

  test('of a machine that we do not serve gets 404 in one line', async () => {
    let asked: unknown;
    const { base } = await serve({ booter: { ask: async (request) => ((asked = request), { decision: { kind: 'silent', why: 'no profile names this machine' } }) } });
    const answer = await fetch(`${base}/git/post-boot.git/info/refs?service=git-upload-pack`);
    expect([answer.status, answer.headers.get('content-type'), await answer.text()]).toEqual([404, 'text/plain; charset=utf-8', 'NODE_UNKNOWN: 127.0.0.1 is not a machine we serve: no profile names this machine\n']);
    expect(asked).toMatchObject({ via: 'http', ip: '127.0.0.1' });
  });
});

describe('a request that is not right', () => {
  const upload = 'application/x-git-upload-pack-request';
  test.each([
    ['an unknown repository', 'GET', '/git/nope.git/info/refs?service=git-upload-pack', {}, undefined, 404],
    ['a path out of the repositories', 'GET', '/git/..%2f..%2fx.git/info/refs?service=git-upload-pack', {}, undefined, 404],
    ['a repository without its suffix', 'GET', '/git/post-boot/info/refs?service=git-upload-pack', {}, undefined, 404],
    ['the dumb protocol', 'GET', '/git/post-boot.git/info/refs', {}, undefined, 403],
    ['a file of the dumb protocol', 'GET', '/git/post-boot.git/HEAD', {}, undefined, 404],
    ['an announced push', 'GET', '/git/post-boot.git/info/refs?service=git-receive-pack', {}, undefined, 403],
    ['another content type', 'POST', '/git/post-boot.git/git-upload-pack', { 'content-type': 'application/json' }, '{}', 415],
    ['a body that says it is gzip and is not', 'POST', '/git/post-boot.git/git-upload-pack', { 'content-type': upload, 'content-encoding': 'gzip' }, 'x', 400],
    ['an unknown content encoding', 'POST', '/git/post-boot.git/git-upload-pack', { 'content-type': upload, 'content-encoding': 'br' }, 'x', 415],
    ['a body over the limit', 'POST', '/git/post-boot.git/git-upload-pack', { 'content-type': upload }, Buffer.alloc((1 << 20) + 1), 413],
    ['a body over the limit once unpacked', 'POST', '/git/post-boot.git/git-upload-pack', { 'content-type': upload, 'content-encoding': 'gzip' }, gzipSync(Buffer.alloc(8 << 20)), 413],
  ])('%s: one line of text', async (_name, method, path, headers, body, status) => {
    const { base } = await serve();
    const answer = await fetch(`${base}${path}`, { method, headers, ...(body === undefined ? {} : { body: typeof body === 'string' ? body : new Uint8Array(body) }) });
    const text = await answer.text();
    expect([answer.status, answer.headers.get('content-type')]).toEqual([status, 'text/plain; charset=utf-8']);
    expect(text).toMatch(/^[^\n{]+\n$/);
  });

  test('a body in gzip as git sends it is understood', async () => {
    const { base } = await serve();
    const body = gzipSync('0014command=ls-refs\n0000');
    const headers = { 'content-type': upload, 'content-encoding': 'gzip', 'git-protocol': 'version=2' };
    const answer = await fetch(`${base}/git/post-boot.git/git-upload-pack`, { method: 'POST', headers, body });
    expect(answer.status).toBe(200);
    expect(await answer.text()).toContain(`${commit} refs/heads/pin/${commit}`);
  });
});

describe('limits', () => {
  /** Asks for the big pack and never reads it, so that its child stays. */
  async function stall(port: number): Promise<() => void> {
    const want = `want ${big} ofs-delta\n`;
    const line = (text: string) => `${(text.length + 4).toString(16).padStart(4, '0')}${text}`;
    const body = `${line(want)}0000${line('done\n')}`;
    const socket = connect(port, '127.0.0.1');
    socket.pause();
    socket.on('error', () => undefined);
    socket.write(`POST /git/site.git/git-upload-pack HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-git-upload-pack-request\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    await until(() => childrenLeft() > 0);
    return () => socket.destroy();
  }

  test('when every child is taken for too long the answer is 503 with Retry-After, and later all is well', async () => {
    const { base, port } = await serve({ limits: { children: 1, waitMs: 50 } });
    const leave = await stall(port);
    const answer = await fetch(`${base}/git/post-boot.git/info/refs?service=git-upload-pack`);
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '5']);
    expect(await answer.text()).toMatch(/^BUSY: too many clones.*\n$/);
    leave();
    await until(() => childrenLeft() === 0);
    expect((await clone(base, 'post-boot', commit)).head).toBe(commit);
  });

  test('a client that goes away takes its child with it', async () => {
    const { port } = await serve();
    const leave = await stall(port);
    expect(childrenLeft()).toBeGreaterThan(0);
    leave();
    await until(() => childrenLeft() === 0);
  });

  test('a child that lives too long is ended, and its client does not take the rest for the whole', async () => {
    const { base } = await serve({ limits: { childMs: 1 } });
    const cloned = await clone(base, 'site', big);
    expect(cloned.code).not.toBe(0);
    await until(() => childrenLeft() === 0);
  });

  test('closing the server ends its children', async () => {
    const { port, app } = await serve();
    await stall(port);
    await app.close();
    await until(() => childrenLeft() === 0);
  });
});
