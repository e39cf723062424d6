// The initrd stage on bad networks and odd machines: late links, dead servers, a wrong clock, a /run that is too small, its debug shell. busybox ash, real sockets.
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';

const LIB = new URL('../../images/common/initrd/lib/rackseed', import.meta.url).pathname;
const TOKEN = 'ab'.repeat(32);
const DIGEST = 'cd'.repeat(32);
const CONFIG = `node n1\nhostname n1\nmachine-id ${'1'.repeat(32)}\nsquashfs-url /blobs/x\nsquashfs-digest sha256:${DIGEST}\nsquashfs-size 10\n`;

let server: Server;
let port: number;
/** A port that was free a moment ago: nobody answers there. */
let dead: number;
let dir: string;
let bin: string;
let date: string;
let config: string;

beforeAll(async () => {
  try { execFileSync('ip', ['link', 'set', 'lo', 'up'], { stdio: 'ignore' }); } catch { /* not ours to set, so it is up */ }
  bin = mkdtempSync(join(tmpdir(), 'rackseed-busybox-'));
  execFileSync('busybox', ['--install', '-s', bin]);
  server = createServer((request, response) => {
    response.sendDate = false;
    if (date) response.setHeader('Date', date);
    if (request.url === '/enrol') response.writeHead(201).end(`boot 01J\ntoken ${TOKEN}\n`);
    else if (request.url === '/boots/01J/config') response.end(config);
    else response.end('ok\n');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  port = (server.address() as AddressInfo).port;
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  dead = (other.address() as AddressInfo).port;
  await new Promise((resolve) => other.close(resolve));
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(bin, { recursive: true, force: true });
});
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-network-'));
  date = '';
  config = CONFIG;
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const PARTS = ['say', 'cmdline', 'request', 'session', 'network', 'stack', 'smbios'];
// What the other parts add to config is theirs to test.
const SETTING = 'disks_config() { :; }; integrity_config() { :; }; inhabit_config() { :; }; pause() { :; }';

/** Runs the script in busybox ash with the stage's parts; answers its stdout's lines. `within` goes in front, such as `unshare -m`. */
function ash(script: string, within: readonly string[] = []): Promise<string[]> {
  const parts = PARTS.map((part) => `. "$LIB/${part}.sh"`).join('; ');
  const env = { PATH: bin, LIB, SYS: join(dir, 'sys'), DMI: dir, RUN: join(dir, 'run/rackseed'), ANSWER: join(dir, 'answer'), CONSOLE: join(dir, 'console'), KMSG: join(dir, 'kmsg'), CONSOLES: join(dir, 'active') };
  const [program, ...args] = [...within, join(bin, 'ash'), '-c', `${parts}; ${SETTING}; ${script}`];
  return new Promise((resolve, reject) => execFile(program!, args, { env, cwd: dir, timeout: 40_000 }, (error, stdout, stderr) => (error ? reject(new Error(`${error.message}\n${stderr}`)) : resolve(stdout.trim().split('\n')))));
}

/** What a person saw, without the seconds. */
const said = () => readFileSync(join(dir, 'console'), 'utf8').trimEnd().split('\n').map((line) => line.replace(/^rackseed: (.*) \[.*\]$/, '$1'));

/** A card as the kernel shows it; `link` as in `carrier`. */
function card(name: string, link: 0 | 1): void {
  const at = join(dir, 'sys/class/net', name);
  mkdirSync(join(at, 'device'), { recursive: true });
  for (const [file, text] of [['type', '1'], ['address', `52:54:00:00:00:0${name.at(-1)}`], ['carrier', String(link)]] as const) writeFileSync(join(at, file), `${text}\n`);
}

/** Time as the polls count it: each sleep of 0.2 s is one, so that a minute costs no minute. `at` polls, `then` happens. */
const clockwork = (at: number, then: string) => `ip() { :; }; passed=0; sleep() { passed=$((passed + 1)); [ $passed -ne ${at} ] || { ${then}; }; }`;

describe('a link', () => {
  it('that comes after half a minute is waited for, with a line each 10 s', async () => {
    card('eth0', 0);
    const out = await ash(`${clockwork(155, 'echo 1 >sys/class/net/eth0/carrier')}; find_cards && find_links; echo "$?$linked $passed"`);
    expect(out).toEqual(['0 eth0 155']);
    expect(said()).toEqual(['waiting for a link on eth0, 10 s', 'waiting for a link on eth0, 20 s', 'waiting for a link on eth0, 30 s', 'link on eth0 after 31 s']);
  });

  it('that does not come within a minute is a reason, and another attempt may help', async () => {
    card('eth0', 0);
    expect(await ash(`${clockwork(-1, ':')}; find_cards && find_links; echo "$? $why"`)).toEqual(['1 no link on eth0 within 60 s: is the cable in, is the switch\'s port up?']);
    expect(said().at(-1)).toBe('waiting for a link on eth0, 60 s');
  });

  it('that one of two cards has costs 2 s of waiting for the other, no more', async () => {
    card('eth0', 0);
    card('eth1', 1);
    expect(await ash(`${clockwork(-1, ':')}; find_cards && find_links; echo "$?$linked $passed"`)).toEqual(['0 eth1 10']);
  });

  it('that all cards have costs nothing', async () => {
    card('eth0', 1);
    card('eth1', 1);
    expect(await ash(`${clockwork(-1, ':')}; find_cards && find_links; echo "$?$linked $passed"`)).toEqual(['0 eth0 eth1 0']);
  });

  it('is asked of the card that the loader booted from alone', async () => {
    card('eth0', 1);
    card('eth1', 0);
    card('eth2', 1);
    expect(await ash(`${clockwork(20, 'echo 1 >sys/class/net/eth1/carrier')}; cmd_bootif=52:54:00:00:00:01; find_cards && find_links; echo "$?$linked $passed"`)).toEqual(['0 eth1 20']);
  });
});

describe('several servers', () => {
  const find = (urls: string, linked = 'eth0') => ash(`cmd_url="${urls}"; card=eth0; linked=" ${linked}"; if find_daemon; then echo "yes $url $daemon_port"; else echo "no $fault"; fi`);
  const live = () => `http://127.0.0.1:${port}`;
  const gone = () => `http://127.0.0.1:${dead}`;

  it('are asked in their order, until one answers', async () => {
    expect(await find(`${gone()},${live()}`)).toEqual([`yes ${live()} ${port}`]);
    expect(said()).toEqual([expect.stringMatching(new RegExp(`^the daemon at ${gone()} does not answer \\(.*refused.*\\), asking the next$`))]);
  });
  it('of which the first answers leave the second alone', async () => {
    expect(await find(`${live()},${gone()}`)).toEqual([`yes ${live()} ${port}`]);
  });
  it('that are all away are all named', async () => {
    expect((await find(`${gone()},${gone()}`))[0]).toMatch(new RegExp(`^no the daemon at ${gone()} does not answer: .*, the daemon at ${gone()} does not answer: `));
  });
  it('are asked where there is one URL too, when another card could be the right one', async () => {
    expect((await find(gone(), 'eth0 eth1'))[0]).toMatch(/^no the daemon at/);
    // One card and one URL: nothing to choose, so nothing is asked; enrolment says what is wrong.
    expect(await find(gone())).toEqual([`yes ${gone()} ${dead}`]);
  });
  it.each(['', ',', 'http://10.0.0.1,', 'http://10.0.0.1,,http://10.0.0.2', 'http://10.0.0.1,*', 'http://10.0.0.1, http://10.0.0.2', 'http://10.0.0.1,$(id)'])('%j is refused as a whole, before anybody is asked', async (urls) => {
    expect(await ash(`cmd_url=$1; lease_url=; card=eth0; linked=' eth0'; find_daemon; echo "$? $fault"`.replace('$1', `'${urls}'`))).toEqual([`1 the daemon's URL '${urls}' is not http://<IPv4 address>[:<port>]`]);
  });
});

/** The machine's own clock is left alone: what would set it is written down. */
const DATE = 'date() { case "$*" in *" -s "*) echo "$*" >>set ;; *) command date "$@" ;; esac; }';
const enrol = (before = ':') => ash(`${DATE}; ${before}; read_url http://127.0.0.1:${port}; mac=52:54:00:00:00:01; enrol; echo "$?$why"; cat set 2>/dev/null; cat "$RUN/token" 2>/dev/null`);

describe('a clock', () => {
  it('that is years off is set to the daemon\'s at enrolment, and the console says so', async () => {
    date = 'Sun, 06 Nov 2044 08:49:37 GMT';
    expect(await enrol()).toEqual(['0', '-u -D %a, %d %b %Y %H:%M:%S GMT -s Sun, 06 Nov 2044 08:49:37 GMT', TOKEN]);
    expect(said()[0]).toMatch(/^the clock said 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC, set to .* UTC by the daemon's$/);
  });
  it('that is right within a minute is left alone', async () => {
    date = new Date(Date.now() - 50_000).toUTCString();
    expect(await enrol()).toEqual(['0', TOKEN]);
  });
  it('that is more than a minute off is set', async () => {
    date = new Date(Date.now() - 70_000).toUTCString();
    expect((await enrol())[1]).toContain(date);
  });
  it.each(['', 'yesterday', 'Sun, 06 Nov 1994 08:49:37 GMT', 'Sun, 06 Nov 2044 08:49:37', 'Xxx, 06 Xxx 2044 08:49:37 GMT', '$(touch pwned)'])('is left alone by a Date of %j', async (text) => {
    date = text;
    expect(await enrol()).toEqual(['0', TOKEN]);
  });
});

describe('config', () => {
  const read = (script: string) => ash(`read_url http://127.0.0.1:${port}; boot=01J token=${TOKEN}; config; echo "$?\${why:+ $why}"; ${script}`);
  it('has any number of fallbacks, whole or as paths, in their order', async () => {
    config = `${CONFIG}squashfs-fallback /a\nsquashfs-fallback https://other.example/b\n`;
    expect(await read('echo "$squashfs_url$squashfs_fallbacks"')).toEqual(['0', `http://127.0.0.1:${port}/blobs/x http://127.0.0.1:${port}/a https://other.example/b`]);
  });
  it.each([['squashfs-fallback', 'ftp://x/y'], ['squashfs-fallback', '/$(id)'], ['squashfs-fallback', 'b'], ['squashfs-url', ''], ['squashfs-url', 'http://x/`id`'], ['squashfs-size', '010'], ['hostname', '../x'], ['machine-id', 'X'.repeat(32)]])('is refused with %s %j, by its key', async (key, value) => {
    config = `${CONFIG.split('\n').filter((line) => !line.startsWith(`${key} `)).join('\n')}${key} ${value}\n`;
    expect(await read(':')).toEqual([`2 config has no usable ${key}`]);
  });
});

describe('a /run', () => {
  /** A mount namespace with a tmpfs of that size where the stage's files go. */
  const small = (size: string, script: string) => {
    mkdirSync(join(dir, 'run'));
    return ash(`mount -t tmpfs -o size=${size} run run; ${script}`, ['unshare', '--mount']);
  };
  const session = () => `read_url http://127.0.0.1:${port}; mac=52:54:00:00:00:01; enrol && config; echo "$?\${why:+ $why}"`;

  it('of 1 MiB is enough for all that the stage writes there', async () => {
    expect(await small('1m', `${session()}; ls "$RUN"; du -sk run | cut -f 1`)).toEqual(['0', 'boot', 'mac', 'node', 'token', 'url', expect.stringMatching(/^\d\d?$/)]);
  });
  it('that is full ends the boot with the reason', async () => {
    expect(await small('64k', `dd if=/dev/zero of=run/full bs=1k count=64 2>/dev/null; ${session()}`)).toEqual([`2 ${join(dir, 'run/rackseed')}/url could not be written: is ${join(dir, 'run')} full? 64 KiB, 0 KiB free`]);
  });
});

describe('the debug shell', () => {
  /** Stands for the console: what is in it is typed, what is printed follows. */
  const typed = (line: string) => {
    writeFileSync(join(dir, 'terminal'), `${line}\n`);
    writeFileSync(join(dir, 'active'), `tty0 ${relative('/dev', join(dir, 'terminal'))}\n`);
  };
  it.each([['nothing', ':'], ['a profile that says no', 'shell=no'], ['a word that is not 1', 'cmd_shell=yes']])('is not there with %s, whatever is typed', async (_name, setting) => {
    typed('touch ran');
    expect(await ash(`${setting}; debug_shell; echo "$?"; ls ran`).catch((error: Error) => error.message)).toContain('ran: No such file');
  });
  it.each([['the command line', 'cmd_shell=1'], ['config', 'shell=yes']])('is there when %s allows it, on the last console, and ends when its user says so', async (_name, setting) => {
    typed('touch ran; exit');
    expect(await ash(`${setting}; debug_shell; echo "$?"; ls ran`)).toEqual(['0', 'ran']);
    expect(said()).toEqual([expect.stringMatching(/^a shell on this console \(.*terminal\), because the profile allows it: `exit` or Ctrl-D reboots into a new boot$/), expect.any(String), 'the shell has ended']);
  });
  it('is allowed on the command line by 1 alone, and the state disk is named there', async () => {
    writeFileSync(join(dir, 'cmdline'), 'rackseed.shell=1 rackseed.state=LABEL=node-state\n');
    expect(await ash('read_cmdline cmdline; echo "$cmd_shell $cmd_state"')).toEqual(['1 LABEL=node-state']);
    writeFileSync(join(dir, 'cmdline'), 'rackseed.shell=yes rackseed.state=/dev/sda rackseed.state=LABEL= rackseed.state=LABEL=../x\n');
    expect(await ash('read_cmdline cmdline; echo "[$cmd_shell$cmd_state]"')).toEqual(['[]']);
  });
});
