// What the initrd stage makes of words from outside, run by the shell that runs it on a node: busybox ash.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const LIB = new URL('../../images/common/initrd/lib/rackseed', import.meta.url).pathname;
let dir: string;

beforeAll(() => void (dir = mkdtempSync(join(tmpdir(), 'rackseed-words-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Runs a script after the stage's parts were read; arguments travel as arguments, never inside of the script. */
function ash(script: string, ...args: string[]): string {
  const parts = ['say', 'cmdline', 'request'].map((part) => `. "$LIB/${part}.sh"`).join('; ');
  return execFileSync('busybox', ['ash', '-c', `${parts}; ${script}`, 'ash', ...args], { cwd: dir, encoding: 'utf8', env: { PATH: process.env['PATH'], LIB, ANSWER: join(dir, 'answer') } });
}

describe('the kernel command line', () => {
  const OURS = 'rackseed=http://10.77.0.1:8080 rackseed.boot=01J ip=10.77.0.11::10.77.0.1:255.255.255.0:n1::off:10.77.0.1 BOOTIF=01-52-54-00-AB-cd-56';
  const read = {
    url: 'http://10.77.0.1:8080',
    boot: '01J',
    ip: '10.77.0.11::10.77.0.1:255.255.255.0:n1::off:10.77.0.1',
    bootif: '52:54:00:ab:cd:56',
  };
  const none = { url: '', boot: '', ip: '', bootif: '', tries: '', wait: '', margin: '' };
  const CASES: readonly (readonly [name: string, line: string, expected: Partial<typeof none>])[] = [
    ['what our script gives is read whole', `console=ttyS0 ${OURS} quiet`, read],
    ['an empty line is nothing', '', {}],
    ['a line without our words is nothing, not the whole line', 'console=ttyS0 quiet root=/dev/sda1', {}],
    ['rackseed.net=dhcp puts network, URL and boot aside, and keeps BOOTIF', `${OURS} rackseed.net=dhcp`, { bootif: read.bootif }],
    ['the last of two equal keys wins', 'rackseed=http://1.1.1.1 ip=1.1.1.1 rackseed=http://2.2.2.2', { url: 'http://2.2.2.2', ip: '1.1.1.1' }],
    ['ip=dhcp means DHCP', 'rackseed=http://1.1.1.1 ip=dhcp', { url: 'http://1.1.1.1' }],
    ['an address without a URL means DHCP, which knows both', 'ip=10.0.0.5::10.0.0.1:255.0.0.0', {}],
    ['words inside of quotes are not ours', 'foo="x rackseed=http://6.6.6.6 rackseed.boot=evil" rackseed=http://1.1.1.1', { url: 'http://1.1.1.1' }],
    ['a quote that never closes swallows the rest, as in the kernel', 'rackseed=http://1.1.1.1 foo="x rackseed=http://6.6.6.6', { url: 'http://1.1.1.1' }],
    ['keys that only begin like ours are others', 'rackseed.bootx=1 xrackseed=2 rackseed_boot=3 BOOTIFX=01-52-54-00-12-34-56', {}],
    ['a boot id with a path in it is dropped', 'rackseed.boot=../../x rackseed.boot=.. rackseed.boot=a/b', {}],
    ['a BOOTIF that is no Ethernet address is dropped', 'BOOTIF=20-52-54-00-12-34-56 BOOTIF=01-52-54-00-12-34 BOOTIF=01-52-54-00-12-34-5g BOOTIF=01-52-54-00-12-34-56-78', {}],
    ['numbers are numbers', 'rackseed.tries=3 rackseed.wait=0 rackseed.margin=512', { tries: '3', wait: '0', margin: '512' }],
    ['what is no number, or octal, is dropped', 'rackseed.tries=0 rackseed.tries=x rackseed.wait=010 rackseed.margin=-1', {}],
    ['shell syntax is text', 'rackseed.boot=$(touch${IFS}pwned) rackseed=`touch${IFS}pwned`;touch${IFS}pwned * ? [a-z]', { url: '`touch${IFS}pwned`;touch${IFS}pwned' }],
  ];

  it.each(CASES)('%s', (_name, line, expected) => {
    writeFileSync(join(dir, 'cmdline'), `${line}\n`);
    const out = ash('read_cmdline cmdline; printf "%s\\n" "$cmd_url" "$cmd_boot" "$cmd_ip" "$cmd_bootif" "$cmd_tries" "$cmd_wait" "$cmd_margin"').split('\n');
    const [url, boot, ip, bootif, tries, wait, margin] = out;
    expect({ url, boot, ip, bootif, tries, wait, margin }).toEqual({ ...none, ...expected });
    expect(existsSync(join(dir, 'pwned'))).toBe(false);
  });
});

describe('a base URL', () => {
  it.each([
    ['http://10.77.0.1:8080', 'http://10.77.0.1:8080 10.77.0.1 8080'],
    ['http://10.77.0.1/', 'http://10.77.0.1 10.77.0.1 80'],
  ])('%s is used', (text, expected) => expect(ash('read_url "$1" && echo "$url $daemon_ip $daemon_port"', text).trim()).toBe(expected));

  it.each(['', 'http://', 'https://10.0.0.1', 'http://daemon:80', 'http://10.0.0.1:', 'http://10.0.0.1:80:80', 'http://10.0.0.1:99999', 'http://10.0.0.1/path', 'http://10.0.0.1@6.6.6.6', 'tftp://10.0.0.1', 'undionly.kpxe', 'http://10.0.0.1 -e sh'])(
    '%j is refused',
    (text) => expect(ash('read_url "$1" || echo no', text).trim()).toBe('no'),
  );
});

describe('an IPv4 address', () => {
  it.each([['0.0.0.0', 'yes'], ['255.255.255.255', 'yes'], ['10.0.0.256', 'no'], ['10.0.0', 'no'], ['10.0.0.1.2', 'no'], ['10..0.1', 'no'], ['.10.0.0.1', 'no'], ['10.0.0.1.', 'no'], ['10.0.0.010', 'no'], ['', 'no'], ['a.b.c.d', 'no']])(
    '%j: %s',
    (text, expected) => expect(ash('is_ip4 "$1" && echo yes || echo no', text).trim()).toBe(expected),
  );
});

describe('an answer of the daemon', () => {
  const answer = (text: string, script: string, ...args: string[]) => {
    writeFileSync(join(dir, 'answer'), text);
    return ash(script, ...args).trim();
  };
  const HEAD = 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nnode: header\r\n\r\n';

  it.each([
    ['a value is the rest of its line', `${HEAD}node n1\nhostname a b  c\n`, 'hostname', 'a b  c'],
    ['a header is never taken for a key', `${HEAD}hostname x\n`, 'node', ''],
    ['the last line needs no line break', `${HEAD}node n1`, 'node', 'n1'],
    ['a key that is not there is empty, not the line before', `${HEAD}node n1\n`, 'machine-id', ''],
    ['line breaks of other systems are cut off', `${HEAD}node n1\r\n`, 'node', 'n1'],
    ['shell syntax is text', `${HEAD}node $(id)\`id\`\n`, 'node', '$(id)`id`'],
  ])('%s', (_name, text, key, expected) => expect(answer(text, 'answered "$1"; echo "$value"', key)).toBe(expected));

  it('gives its first line as the reason', () => expect(answer(`${HEAD}CODE: it is so\nmore\n`, 'first_line; echo "$reason"')).toBe('CODE: it is so'));
});

describe('a message in a query', () => {
  it('is decoded to itself', () => {
    const text = 'attempt 1 of 5: "a" & b=c + d%20; it\'s 50% (x/y, z:1) ~._-';
    expect(decodeURIComponent(ash('encode "$1"; echo "$encoded"', text).trim())).toBe(text);
  });
  it('has ? for what is not printable ASCII, and an end', () => {
    expect(decodeURIComponent(ash('encode "$1"; echo "$encoded"', 'a\tb\n#')).trim()).toBe('a?b??');
    expect(ash('encode "$1"; echo "${#encoded}"', 'x'.repeat(5000)).trim()).toBe('300');
  });
});
