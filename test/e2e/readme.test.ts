// README's commands, as written: every one that it shows is run here, and one that is added there without a run here is a failure.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildImage } from '../../src/images/build.ts';
import { createNamespace, type Namespace, type Ran } from '../../src/lab/network.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { CLI, leftovers, openDir, removeDir, ROOT, start, TEST_STATE, until } from '../lab-process.ts';

const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
const shell = [...readme.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].flatMap(([, block]) => block!.trim().split('\n'));
const inTable = [...readme.matchAll(/^\| (`.*`[^|]*) \|/gm)].flatMap(([, cell]) => [...cell!.matchAll(/`([^`]+)`/g)].map(([, command]) => command!));
const yaml = [...readme.matchAll(/^```yaml\n([\s\S]*?)^```$/gm)].map(([, block]) => block!);

const dir = openDir();
const state = join(dir, 'state');
let ns: Namespace;

beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  await buildImage({ name: 'debian-k0s', imagesDir: SHIPPED.images, stateDir: TEST_STATE, onProgress: () => undefined });
  // The boot LAN that README's settings speak of: eth0 with 10.77.0.1, in a namespace.
  ns = await createNamespace();
  await ns.must(['ip', 'link', 'add', 'eth0', 'type', 'bridge']);
  await ns.must(['ip', 'address', 'add', '10.77.0.1/24', 'dev', 'eth0']);
  await ns.must(['ip', 'link', 'set', 'eth0', 'up']);
});
afterAll(async () => {
  await ns?.close();
  removeDir(dir);
});

/** `rackseed ...` as the built program; npm's commands where the package is, the rest where rackseed.yaml is. */
function run(command: string): Promise<Ran> {
  const words = command.startsWith('rackseed ') ? `exec "${process.execPath}" "${CLI}" ${command.slice('rackseed '.length)}` : `exec ${command}`;
  return ns.run(['env', '-C', command.startsWith('npm ') ? ROOT : dir, 'sh', '-c', words], { timeoutMs: 300_000 });
}

test('every command that README shows has a run here', () => {
  expect(shell).toEqual(['npm run lab', 'npm test', 'npm run build']);
  expect(inTable).toEqual([
    'rackseed image build debian-k0s',
    'rackseed artifact add k0s ./k0s --version v1.36.1+k0s.0',
    'rackseed check',
    'npm start',
    'rackseed serve',
    'rackseed node list',
    'rackseed boot show n1',
    'rackseed probe --interface eth0',
  ]);
  expect(yaml).toHaveLength(2);
});

test('npm run lab: shows each stage up to ready, says how to go on, and ends by Ctrl-C without a trace', async () => {
  const lab = start(['env', `RACKSEED_LAB_STATE=${TEST_STATE}`, 'npm', 'run', 'lab']);
  try {
    await until('how to go on', 480_000, () => (/stop: +Ctrl-C/.test(lab.stdout()) ? true : undefined), lab);
  } finally {
    lab.child.kill('SIGINT');
  }
  await lab.ended;
  for (const stage of ['discover', 'kernel', 'root', 'step:30-k0s', 'ready']) expect(lab.stdout()).toMatch(new RegExp(`^n1 .* s .* ${stage}\\b`, 'm'));
  expect(lab.stdout()).toMatch(/API: +http:\/\/127\.0\.0\.1:\d+/);
  expect(leftovers(TEST_STATE)).toEqual([]);
});

// `npm test` is what runs this.

test('npm run build makes the command', async () => {
  expect((await run('npm run build')).code).toBe(0);
  expect((await run('rackseed --version')).stdout).toBe(`${(JSON.parse(readFileSync(SHIPPED.packageJson, 'utf8')) as { version: string }).version}\n`);
});

describe('an operator with README in hand', () => {
  test('settings and profile, image, artifact, check', async () => {
    // As written, but for the directory: this machine's own /var/lib/rackseed is not ours.
    writeFileSync(join(dir, 'rackseed.yaml'), yaml[0]!.replace('/var/lib/rackseed', state));
    mkdirSync(join(dir, 'boot-profiles'));
    for (const profile of ['k0s-single.yaml', 'plain.yaml']) copyFileSync(join(SHIPPED.bootProfiles, profile), join(dir, 'boot-profiles', profile));
    const shipped = readFileSync(join(dir, 'boot-profiles/k0s-single.yaml'), 'utf8');
    writeFileSync(join(dir, 'boot-profiles/k0s-single.yaml'), shipped.replace(/^nodes:[\s\S]*/m, yaml[1]!));
    copyFileSync(SHIPPED.k0sStandin, join(dir, 'k0s'));
    // The image that the other tests built is taken over, so that this build finds nothing to do.
    mkdirSync(state);
    await ns.must(['cp', '-a', join(TEST_STATE, 'blobs'), join(TEST_STATE, 'images'), state]);
    const built = await run('rackseed image build debian-k0s');
    expect([built.code, built.stderr], built.stderr).toEqual([0, expect.any(String)]);
    const added = await run('rackseed artifact add k0s ./k0s --version v1.36.1+k0s.0');
    expect(added.code, added.stderr).toBe(0);
    const checked = await run('rackseed check');
    expect(checked.code, checked.stderr).toBe(0);
  });

  test('npm start serves: node list, boot show and probe answer', async () => {
    const settings = join(dir, 'rackseed.yaml');
    // `npm start` reads rackseed.yaml of the checkout, which is not ours to write: the same with its place named.
    const daemon = ns.spawn(['setpriv', '--pdeathsig', 'TERM', '--', 'env', '-C', ROOT, 'npm', 'start', '--', '--config', settings], { stdio: ['ignore', 'pipe', 'pipe'] });
    const ended = new Promise((resolve) => daemon.once('close', resolve));
    let said = '';
    for (const stream of [daemon.stdout, daemon.stderr]) stream!.on('data', (chunk: Buffer) => (said += chunk.toString()));
    try {
      await until('rackseed is up', 60_000, () => (said.includes('rackseed is up') ? true : undefined)).catch((error: Error) => {
        throw new Error(`${error.message}\n${said}`);
      });
      expect((await run('rackseed node list')).stdout).toMatch(/^n1 +k0s-single +10\.77\.0\.11 /m);
      expect((await run('rackseed boot show n1')).stdout).toBe('n1 has not booted yet\n');
      const stranger = await run('rackseed probe --interface eth0 --timeout 2');
      // The probe's own MAC is nobody's: silence, said so, is the right answer.
      expect(stranger.code).toBe(1);
      expect(stranger.stderr + stranger.stdout).toMatch(/no profile names|unknown|no answer/i);
      const known = await run('rackseed probe --interface eth0 --timeout 2 --as ipxe --mac 52:54:00:12:34:56 --no-fetch');
      expect(known.code, known.stderr).toBe(0);
      expect(known.stdout).toContain('10.77.0.1');
    } finally {
      daemon.kill('SIGTERM');
      await ended;
    }
  });
});
