// The command line against a running daemon: what it prints for people and programs, and its exit codes.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { createMachine, createRelay, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

const CLI = new URL('../../dist/cli.js', import.meta.url).pathname;
const empty = mkdtempSync(join(tmpdir(), 'rackseed-cli-'));
let world: World;
let relay: Relay;

beforeAll(async () => {
  world = await startWorld();
  relay = await createRelay();
  await createMachine(relay, world.macs.n1, world.httpPort).dora('ipxe');
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
  rmSync(empty, { recursive: true });
});

/** Runs in a child of its own, because the daemon that it asks lives in this process. */
async function cli(args: readonly string[], cwd = world.dir): Promise<{ code: number; out: string; err: string }> {
  const { spawn } = await import('node:child_process');
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [CLI, ...args], { cwd, env: { ...process.env, NO_COLOR: '1' }, stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, err] = ['', ''];
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    child.on('close', (code) => resolve({ code: code ?? -1, out, err }));
  });
}

describe('nodes and boots', () => {
  it('node list is a table with a line for each node', async () => {
    const { code, out } = await cli(['node', 'list']);
    expect(code).toBe(0);
    const [head, n1, n2] = out.split('\n');
    expect(head).toMatch(/^NAME +PROFILE +IP +BOOT +STAGE +AGE +DRIFT +NEXT +WHY$/);
    expect(n1).toMatch(/^n1 +k0s-single +127\.0\.0\.11 +open +lease +\d+s +unknown +netboot +-$/);
    expect(n2).toMatch(/^n2 +k0s-single +127\.0\.0\.12 +- +- +- +unknown +netboot +-$/);
  });

  it('node show takes a name or any spelling of a MAC, and -o json and yaml say the same', async () => {
    const json = await cli(['node', 'show', '52-54-00-00-00-01', '-o', 'json']);
    const yaml = await cli(['node', 'show', 'n1', '--output', 'yaml']);
    expect([json.code, yaml.code]).toEqual([0, 0]);
    expect(JSON.parse(json.out)).toMatchObject({ name: 'n1', profile: 'k0s-single', boot: { state: 'open' } });
    expect(parse(yaml.out)).toEqual(JSON.parse(json.out));
  });

  it('boot show has each stage with its time, by node and by id', async () => {
    const byNode = await cli(['boot', 'show', 'n1']);
    expect(byNode.out).toMatch(/^boot \w{26} of n1 \(52:54:00:00:00:01\), profile k0s-single: open\n\nSTAGE +STATE +AT \(S\)/);
    expect(byNode.out.split('\n').slice(3, 6).map((line) => line.split(/\s+/)[0])).toEqual(['discover', 'offer', 'lease']);
    const id = /^boot (\w{26})/.exec(byNode.out)![1]!;
    expect((await cli(['boot', 'show', id])).out).toBe(byNode.out);
    expect((await cli(['boot', 'show', 'n2'])).out).toBe('n2 has not booted yet\n');
  });

  it('--url may stand before or after the command', async () => {
    const url = `unix:${join(world.dir, 'state/api.sock')}`;
    expect((await cli(['--url', url, 'node', 'list'], empty)).code).toBe(0);
    expect((await cli(['node', 'list', '--url', url], empty)).code).toBe(0);
  });
});

describe('reload', () => {
  it('says what it swapped to, and with a fault where it is and what goes on', async () => {
    const file = join(world.profilesDir, 'k0s-single.yaml');
    writeFileSync(file, `${PROFILE}vars: { a: b }\n`);
    // The edit is seen by itself too: whoever comes second finds nothing changed.
    expect((await cli(['reload'])).out).toMatch(/^(swapped to|unchanged:) generation sha256:[0-9a-f]{12}\n$/);
    writeFileSync(file, PROFILE.replace('image:', 'imgae:'));
    const broken = await cli(['reload']);
    expect(broken.code).toBe(65);
    expect(broken.err).toMatch(/k0s-single\.yaml:1:1: unknown key imgae \(did you mean image\?\)\n/);
    expect(broken.err).toMatch(/\[PROFILES_INVALID\]\n$/);
    expect((await cli(['check'])).code).toBe(65);
    writeFileSync(file, PROFILE);
    expect((await cli(['reload'])).code).toBe(0);
    expect((await cli(['check'])).code).toBe(0);
  });
});

describe('history, check and schema', () => {
  it('history tells what the reloads above changed and which were refused; with a node its assignments and boots', async () => {
    const lines = (await cli(['history'])).out.trimEnd().split('\n');
    expect(lines[0]).toMatch(/^WHEN +GENERATION +BY +OUTCOME +WHAT$/);
    const [back, ...older] = lines.slice(1);
    expect(back).toMatch(/ swapped +profile k0s-single: vars\.a b \(gone\)$/);
    expect(older[0]).toMatch(/ (edit|api) +refused: 1 fault +\S*k0s-single\.yaml:1:1: unknown key imgae \(did you mean image\?\)$/);
    expect(older.at(-2)).toMatch(/ swapped +profile k0s-single: vars\.a b \(new\)$/);
    expect(older.at(-1)).toMatch(/sha256:[0-9a-f]{12} +start +swapped +profile k0s-single added; nodes n1, n2 added$/);
    const of = (await cli(['history', '52:54:00:00:00:01'])).out.split('\n').map((line) => line.replace(/^\S+ +/, ''));
    expect(of.map((line) => line.split(/ {2,}/)[0])).toEqual(['WHAT', 'profile changed', 'profile changed', 'boot open', 'assigned', '']);
    expect(JSON.parse((await cli(['history', 'n2', '-o', 'json', '--limit', '1'])).out)).toMatchObject({ node: 'n2', entries: [{ kind: 'assigned', from: 'k0s-single', changes: [{ what: 'vars.a', from: 'b', needs: 'steps' }] }] });
    expect((await cli(['history', 'n3'])).code).toBe(66);
  });

  it('check prints a document for programs, and stderr keeps to one line', async () => {
    const good = await cli(['check', '--format', 'json']);
    expect([good.code, good.err]).toEqual([0, '']);
    expect(JSON.parse(good.out)).toMatchObject({ ok: true, checked: { settings: 'rackseed.yaml', nodes: 2 } });
    const bad = join(world.dir, 'bad');
    mkdirSync(bad);
    writeFileSync(join(bad, 'a.yaml'), 'boot: local\nfoo: 1\n');
    const sarif = await cli(['check', '--profiles', 'bad', '--format', 'sarif']);
    expect([sarif.code, sarif.err]).toEqual([65, 'rackseed: boot-profiles have faults: 1 fault [PROFILES_INVALID]\n']);
    expect(JSON.parse(sarif.out)).toMatchObject({ runs: [{ results: [{ ruleId: 'PROFILES_INVALID', locations: [{ physicalLocation: { artifactLocation: { uri: 'bad/a.yaml' }, region: { startLine: 2, startColumn: 1 } } }] }] }] });
    expect((await cli(['check', '--format', 'xml'])).code).toBe(64);
  });

  it('schema prints one of the schemas', async () => {
    expect(JSON.parse((await cli(['schema', 'image'])).out)).toMatchObject({ title: 'image.yaml' });
  });
});

describe('images', () => {
  it('are tagged, shown with their users, exported, taken again, and collected, beside the daemon', async () => {
    expect((await cli(['image', 'tag', 'debian-k0s', 'stable'])).out).toMatch(/^debian-k0s:stable names sha256:[0-9a-f]{12}; /);
    expect((await cli(['image', 'list'])).out).toMatch(/\ndebian-k0s +latest,stable +sha256:/);
    expect((await cli(['image', 'show', 'debian-k0s:stable'])).out).toMatch(/\nused by +profile k0s-single, assigned to n1, n2; [^]*\nkernel +\d+ B +sha256:[0-9a-f]{64} +yes\n/);
    expect(await cli(['image', 'export', 'debian-k0s:stable', 'debian.tar'])).toMatchObject({ code: 0, err: '' });
    expect(JSON.parse((await cli(['image', 'import', 'debian.tar', '-o', 'json'])).out)).toMatchObject({ verified: false, images: [{ name: 'debian-k0s', how: 'there', tags: ['latest', 'stable'], kept: [] }] });
    expect((await cli(['image', 'diff', 'debian-k0s', 'debian-k0s:stable'])).out).toMatch(/: the same build\n/);
    expect(JSON.parse((await cli(['image', 'gc', '--dry-run', '-o', 'json'])).out)).toMatchObject({ builds: [{ name: 'debian-k0s', removed: false, why: 'tag stable' }], blobs: [] });
    expect(await cli(['image', 'untag', 'debian-k0s:stable'])).toMatchObject({ code: 0, err: '' });
  });
});

describe('errors are one line with a hint, and the exit code tells of what kind', () => {
  it.each([
    [['frob'], 64, /unknown command 'frob'/],
    [['node', 'list', '-o', 'xml'], 64, /unknown output format xml\n {2}hint: one of table, wide, json, yaml \[USAGE\]/],
    [['node', 'show', 'n11'], 66, /no node n11\n {2}hint: did you mean n1\? \[NODE_UNKNOWN\]/],
    [['boot', 'show', '01HF0000000000000000000000'], 66, /no boot 01HF0000000000000000000000/],
    [['image', 'show', 'debian-k0z'], 66, /\[IMAGE_UNKNOWN\]/],
    [['image', 'show', 'debian-k0s:stable'], 66, /there is no image debian-k0s:stable\n {2}hint: rackseed image list shows the builds and tags/],
    [['image', 'rm', 'debian-k0s:latest'], 1, /debian-k0s:latest is used by profile k0s-single, assigned to n1, n2; \S+\/k0s-single\.yaml\n {2}hint: [^\n]* \[IMAGE_IN_USE\]/],
    [['image', 'gc', '--keep', 'all'], 64, /--keep all: not a number of builds/],
    [['image', 'export', 'debian-k0s', 'file'], 64, /a file's name ends in \.tar/],
    [['image', 'import', 'rackseed.yaml'], 65, /rackseed\.yaml: it ends without the mark of its end: it was cut short\n[^\n]* \[TRANSFER_INVALID\]/],
    [['artifact', 'add', 'k0s', 'nowhere', '--version', 'v2'], 65, /nowhere: no such file/],
    [['--url', 'http://127.0.0.1:1', 'node', 'list'], 69, /the daemon does not answer at http:\/\/127\.0\.0\.1:1: ECONNREFUSED/],
  ])('%j exits %i', async (args, code, message) => {
    const ran = await cli(args);
    expect([ran.code, ran.out]).toEqual([code, '']);
    expect(ran.err).toMatch(message);
    expect(ran.err).not.toMatch(/^ +at /m);
  });

  it('without settings nothing starts: it says what to write and how to try the lab', () => {
    const ran = spawnSync(process.execPath, [CLI, 'serve'], { cwd: empty, encoding: 'utf8' });
    expect(ran.status).toBe(78);
    expect(ran.stderr).toMatch(/no settings file.*\n {2}hint: write rackseed\.yaml.*npm run lab/);
  });

  it('a second daemon on the same ports says which and why', async () => {
    const ran = await cli(['serve']);
    expect(ran.code).toBe(69);
    expect(ran.err).toMatch(/cannot listen on (port 67 of lo|127\.0\.0\.1:(69|8080)) ?:? ?\(?EADDRINUSE/);
  });
});
