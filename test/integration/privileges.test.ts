// Giving root up, in child processes that look at themselves afterwards.
import { execFileSync } from 'node:child_process';
import { chownSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { buildTree, type BuiltTree } from '../built-tree.ts';

const NOBODY = 65534;

/** Becomes argv[3], in JSON, with the state directory argv[2], and says what it is then. */
const PROGRAM = `
import { createSocket } from 'node:dgram';
import { readFileSync, writeFileSync } from 'node:fs';
import { becomeUser } from './src/privileges.js';
const logged = [];
const log = Object.fromEntries(['debug', 'info', 'warn', 'error'].map((level) => [level, (fields, text) => logged.push([level, text, fields.hint])]));
const [stateDir, user] = process.argv.slice(2);
const said = { logged };
try {
  becomeUser(user === undefined ? undefined : JSON.parse(user), { stateDir, log });
} catch (error) {
  Object.assign(said, { code: error.code, message: error.message, hint: error.hint });
}
const status = readFileSync('/proc/self/status', 'utf8');
for (const name of ['Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapAmb']) said[name] = new RegExp(name + ':\\\\s*(.*)').exec(status)[1].trim();
try { process.setuid(0); said.back = true; } catch { said.back = false; }
try { writeFileSync(stateDir + '/new', ''); said.writes = true; } catch { said.writes = false; }
said.home = process.env.HOME;
const socket = createSocket('udp4').on('error', ({ code }) => { said.port67 = code; console.log(JSON.stringify(said)); });
socket.bind(67, () => { said.port67 = 'bound'; console.log(JSON.stringify(said)); socket.close(); });
`;

let tree: BuiltTree;
let program: string;
let dir: string;
let stateDir: string;
let outside: string;

function become(user: string | null | undefined, ...wrapper: string[]): Record<string, unknown> {
  const [file, ...argv] = [...wrapper, process.execPath, program, stateDir, ...(user === undefined ? [] : [JSON.stringify(user)])];
  return JSON.parse(execFileSync(file!, argv, { encoding: 'utf8' })) as Record<string, unknown>;
}
const ownerOf = (path: string) => {
  const { uid, gid } = lstatSync(path);
  return `${uid}:${gid}`;
};

beforeAll(() => {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  tree = buildTree(['privileges.ts', 'errors.ts']);
  program = tree.program('become.js', PROGRAM);
});
afterAll(() => tree.remove());

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-privileges-'));
  execFileSync('chmod', ['755', dir]);
  stateDir = join(dir, 'state');
  outside = join(dir, 'outside');
  mkdirSync(join(stateDir, 'repos/deep'), { recursive: true });
  mkdirSync(join(stateDir, 'tmp/image-x.1.abc/root/bin'), { recursive: true });
  mkdirSync(outside);
  for (const file of ['state/rackseed.db', 'state/repos/deep/object', 'state/repos/his', 'state/tmp/image-x.1.abc/root/bin/sh', 'outside/shadow']) writeFileSync(join(dir, file), '', { mode: 0o600 });
  chownSync(join(stateDir, 'repos/his'), NOBODY, NOBODY);
  symlinkSync(join(outside, 'shadow'), join(stateDir, 'repos/link'));
  symlinkSync(outside, join(stateDir, 'repos/dir'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe('becomeUser', () => {
  test('the user, its group and nothing else: no capability, no way back, no port below 1024', () => {
    expect(become('nobody')).toEqual({
      logged: [['info', 'root is given up', null]],
      Uid: '65534\t65534\t65534\t65534',
      Gid: '65534\t65534\t65534\t65534',
      Groups: '65534',
      CapInh: '0000000000000000',
      CapPrm: '0000000000000000',
      CapEff: '0000000000000000',
      CapAmb: '0000000000000000',
      back: false,
      writes: true,
      home: '/nonexistent',
      port67: 'EACCES',
    });
  });

  test('the state directory is given away, links are not followed, an image that is being built is left alone', () => {
    become('nobody');
    const his = ['state', 'state/rackseed.db', 'state/repos', 'state/repos/deep', 'state/repos/deep/object', 'state/repos/his', 'state/repos/link', 'state/repos/dir', 'state/tmp'];
    const notHis = ['outside', 'outside/shadow', 'state/tmp/image-x.1.abc', 'state/tmp/image-x.1.abc/root/bin/sh', '.'];
    expect(his.map((path) => [path, ownerOf(join(dir, path))])).toEqual(his.map((path) => [path, '65534:65534']));
    expect(notHis.map((path) => [path, ownerOf(join(dir, path))])).toEqual(notHis.map((path) => [path, '0:0']));
  });

  test('a state directory that is a link is followed: the operator made it', () => {
    symlinkSync(stateDir, join(dir, 'by-link'));
    stateDir = join(dir, 'by-link');
    expect(become('nobody')).toMatchObject({ writes: true, back: false });
    expect(ownerOf(join(dir, 'state/repos/deep/object'))).toBe('65534:65534');
  });

  test('a user that the settings name and that does not exist is refused, with the line that makes it', () => {
    expect(become('no-such-user')).toMatchObject({ code: 'CONFIG_INVALID', message: 'user: there is no user no-such-user in /etc/passwd', hint: expect.stringContaining('useradd --system'), Uid: '0\t0\t0\t0' });
  });

  test.skipIf(/^rackseed:/m.test(readFileSync('/etc/passwd', 'utf8')))('nobody named, and no user rackseed: root goes on, with one warning', () => {
    expect(become(undefined)).toMatchObject({ logged: [['warn', 'there is no user rackseed: the daemon goes on as root', 'useradd --system --home-dir /var/lib/rackseed --shell /usr/sbin/nologin rackseed']], Uid: '0\t0\t0\t0', port67: 'bound' });
  });

  test.each<[string, string | null]>([
    ['null', null],
    ['root', 'root'],
  ])('user %s stays root without a word', (_name, user) => {
    expect(become(user)).toMatchObject({ logged: [], Uid: '0\t0\t0\t0', port67: 'bound' });
    expect(ownerOf(join(stateDir, 'rackseed.db'))).toBe('0:0');
  });

  test('who is not root stays who they are', () => {
    expect(become('no-such-user', 'setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--')).toMatchObject({ logged: [], Uid: '65534\t65534\t65534\t65534', port67: 'EACCES' });
  });

  test.each<[string, string | undefined]>([
    ['nobody', 'nobody'],
    ['of the default', undefined],
  ])('root of a user namespace without the user %s stays, and says so at debug only', (_name, user) => {
    const said = become(user, 'unshare', '--user', '--map-root-user', '--');
    expect(said).toMatchObject({ Uid: '0\t0\t0\t0', logged: [['debug', expect.any(String), user === undefined ? expect.any(String) : null]] });
    expect(ownerOf(join(stateDir, 'rackseed.db'))).toBe('0:0');
  });
});
