// What the initrd stage makes of words from outside, run by the shell that runs it on a node: busybox ash.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const LIB = new URL('../../images/common/initrd/lib/rackseed', import.meta.url).pathname;
let dir: string;

beforeAll(() => void (dir = mkdtempSync(join(tmpdir(), 'rackseed-words-'))));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Runs a script after the stage's parts were read; arguments travel as arguments, never inside of the script. */
function ash(script: string, ...args: string[]): string {
  const parts = ['say', 'cmdline', 'request', 'network', 'stack'].map((part) => `. "$LIB/${part}.sh"`).join('; ');
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
  const none = { url: '', boot: '', ip: '', bootif: '', tries: '', wait: '', margin: '', bond: '', vlan: '' };
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
    ['links on top of cards are read whole, and rackseed.net=dhcp keeps them', 'vlan=eth0.42:eth0 rackseed.net=dhcp bond=bond0:eth0,eth1:mode=active-backup,miimon=100', { bond: 'bond0:eth0,eth1:mode=active-backup,miimon=100', vlan: 'eth0.42:eth0' }],
    ['shell syntax is text', 'rackseed.boot=$(touch${IFS}pwned) rackseed=`touch${IFS}pwned`;touch${IFS}pwned * ? [a-z]', { url: '`touch${IFS}pwned`;touch${IFS}pwned' }],
  ];

  it.each(CASES)('%s', (_name, line, expected) => {
    writeFileSync(join(dir, 'cmdline'), `${line}\n`);
    const out = ash('read_cmdline cmdline; printf "%s\\n" "$cmd_url" "$cmd_boot" "$cmd_ip" "$cmd_bootif" "$cmd_tries" "$cmd_wait" "$cmd_margin" "$cmd_bond" "$cmd_vlan"').split('\n');
    const [url, boot, ip, bootif, tries, wait, margin, bond, vlan] = out;
    expect({ url, boot, ip, bootif, tries, wait, margin, bond, vlan }).toEqual({ ...none, ...expected });
    expect(existsSync(join(dir, 'pwned'))).toBe(false);
  });
});

describe('an address on the command line', () => {
  it.each([
    ['is taken with its netmask', '10.77.0.11::10.77.0.1:255.255.255.0:n1::off:10.77.0.1', '10.77.0.11/255.255.255.0 10.77.0.1'],
    ['without a netmask is none, so DHCP is asked: iPXE 2.0 knows no more', '10.77.0.11::::n1::off:', 'DHCP'],
    ['is none where there is nothing', '', 'DHCP'],
  ])('%s', (_name, ip, expected) => {
    expect(ash('cmd_ip=$1; if address_of_cmdline; then echo "$lease_ip/$lease_netmask $lease_gateway"; else echo DHCP; fi', ip).trim()).toBe(expected);
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

describe('links on top of cards', () => {
  it.each([['eth0.42', '42'], ['eth0.0042', '42'], ['vlan7', '7'], ['bond0.4094', '4094'], ['eth0.4095', 'no'], ['eth0.0', 'no'], ['trunk', 'no'], ['v12345678901234567', 'no']])(
    'the name %s is that of VLAN %s',
    (name, id) => expect(ash('vlan_of "$1" && echo "$vlan_id" || echo no', name).trim()).toBe(id),
  );

  // Only what is refused before any link is looked at; what is taken is made in test/e2e/links.test.ts.
  it.each(['eth0.42', 'eth0.42:', ':eth0', 'eth0.42:eth0:x', 'eth0.42:../x', '../eth0.42:eth0', 'eth0.4095:eth0', 'eth42:eth42', 'averyveryverylongname.42:eth0'])('vlan=%s is refused at once, with the words', (text) => {
    expect(ash('cmd_vlan=$1 SYS=$PWD; stack_links; echo "$? $why"', text).trim()).toBe(`2 vlan=${text} is not NAME:CARD, such as eth0.42:eth0`);
  });

  it.each(['bond0', 'bond0:', ':eth0', '../b:eth0', 'bond0:../eth0', 'bond0:bond0', 'bond0:eth0:mode=1:9000', 'bond0:$(touch${IFS}pwned)', 'bond0:*'])('bond=%s is refused at once, with the words', (text) => {
    expect(ash('cmd_bond=$1 SYS=$PWD; stack_links; echo "$? $why"', text).trim()).toBe(`2 bond=${text} is not NAME:CARD,CARD[:OPTION=VALUE,...]`);
    expect(existsSync(join(dir, 'pwned'))).toBe(false);
  });

  // As the driver shows them (`802.3ad 4`), who refuses to set a mode again once there are members.
  it('a bond that an attempt before made is left as it is', () => {
    const file = (path: string, text: string): void => {
      mkdirSync(join(dir, 'made/class/net', path, '..'), { recursive: true });
      writeFileSync(join(dir, 'made/class/net', path), text);
    };
    for (const card of ['eth0', 'eth1']) file(`${card}/master`, '');
    for (const [option, value] of [['mode', '802.3ad 4'], ['lacp_rate', 'fast 1'], ['slaves', 'eth0 eth1']]) file(`bond0/bonding/${option}`, `${value}\n`);
    expect(ash('ip() { :; }; cmd_bond=bond0:eth0,eth1:mode=4,lacp_rate=1 SYS=$PWD/made; stack_links; echo "$?$cards"; cat made/class/net/bond0/bonding/*').split('\n').slice(0, -1)).toEqual(['0 bond0', 'fast 1', '802.3ad 4', 'eth0 eth1']);
  });

  it('a card that does not come is waited for and named, with those that are there', () => {
    mkdirSync(join(dir, 'class/net/lo'), { recursive: true });
    expect(ash('sleep() { :; }; load_modules() { :; }; cmd_vlan=eth0.42:eth0 SYS=$PWD; stack_links; echo "$? $why"').trim()).toBe('1 there is no card eth0; cards: lo');
  });
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

describe('SMBIOS', () => {
  const read = (files: Readonly<Record<string, string>>): string => {
    const dmi = mkdtempSync(join(dir, 'dmi-'));
    for (const [name, content] of Object.entries(files)) writeFileSync(join(dmi, name), content);
    return ash('DMI=$1; . "$LIB/smbios.sh"; read_smbios; printf "%s" "$smbios"', dmi);
  };
  it('is a line each, with or without a line break behind it', () => {
    expect(read({ sys_vendor: 'HP\n', product_name: 'ProLiant DL380p  Gen8 ', product_serial: 'CZ1' })).toBe('manufacturer HP\nproduct ProLiant DL380p  Gen8\nserial CZ1\n');
  });
  it('is nothing where there is none', () => expect(read({})).toBe(''));
  it('leaves out what is empty, or not plain text; shell syntax is text', () => expect(read({ sys_vendor: '\n', product_name: 'K\u00fchlschrank\n', product_serial: '$(id);`id`\\n\n' })).toBe('serial $(id);`id`\\n\n'));
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
