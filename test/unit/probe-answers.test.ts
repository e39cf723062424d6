// What an answer tells a booting machine, and that nothing of it can harm the terminal of the person who asks.
import { describe, expect, it } from 'vitest';
import { ips, message, OPT, subOptions, text, uint32, uint8 } from '../../src/dhcp/options.ts';
import type { Packet } from '../../src/dhcp/packet.ts';
import { merged, readAnswer, sameLink, shown, type Target } from '../../src/probe/answers.ts';
import type { Role } from '../../src/probe/firmware.ts';
import { kindOf } from '../../src/probe/fetch.ts';
import { filesOf, firstLines, MOST_FILES, refusalIn } from '../../src/probe/script.ts';
import { packetWith } from './dhcp-world.ts';

type Option = readonly [number, Uint8Array];
const FROM = '10.77.0.1';

function offer(options: readonly Option[], more: Partial<Packet> = {}): Packet {
  return packetWith([[OPT.messageType, message('offer')], [OPT.serverId, ips(FROM)], ...options], { op: 2, yiaddr: '10.77.0.11', ...more });
}
const target = (role: Role, packet: Packet): Target | undefined => readAnswer(packet, FROM, role, 5)?.target;
const none = (why: RegExp) => ({ via: 'none', why: expect.stringMatching(why) as string });

describe('where an answer sends a machine', () => {
  const file = { siaddr: FROM, file: 'undionly.kpxe' };
  it.each<[string, Role, Packet, unknown]>([
    ['siaddr and file are enough', 'bios', offer([], file), { via: 'tftp', server: FROM, file: 'undionly.kpxe' }],
    ['option 67 comes before the file field', 'bios', offer([[OPT.bootFile, text('other')]], file), { via: 'tftp', server: FROM, file: 'other' }],
    ['option 66 names the server when siaddr does not', 'uefi', offer([[OPT.tftpServer, text('10.77.0.2')], [OPT.bootFile, text('snponly.efi')]]), { via: 'tftp', server: '10.77.0.2', file: 'snponly.efi' }],
    ['a file without a server leads nowhere', 'bios', offer([[OPT.tftpServer, text('tftp.example')], [OPT.bootFile, text('x')]]), none(/no server that has it/)],
    ['no file, nothing to boot', 'bios', offer([], { siaddr: FROM }), none(/names no boot file/)],
    ['an iPXE follows a URL', 'ipxe', offer([[OPT.bootFile, text('http://10.77.0.1/s')]]), { via: 'http', url: 'http://10.77.0.1/s' }],
    ['a ROM cannot', 'bios', offer([[OPT.bootFile, text('http://10.77.0.1/s')]], { siaddr: FROM }), none(/is a URL, and a bios ROM knows TFTP only/)],
    ['of other URLs an iPXE is told that the probe does not follow them', 'ipxe', offer([[OPT.bootFile, text('https://10.77.0.1/s')]]), none(/not https/)],
    ['UEFI HTTP Boot wants HTTPClient in option 60', 'uefi-http', offer([[OPT.bootFile, text('http://10.77.0.1/a.efi')]]), none(/option 60 is not HTTPClient/)],
    ['and then takes the URL', 'uefi-http', offer([[OPT.vendorClass, text('HTTPClient')], [OPT.bootFile, text('http://10.77.0.1/a.efi')]]), { via: 'http', url: 'http://10.77.0.1/a.efi' }],
    ['but no TFTP name', 'uefi-http', offer([[OPT.vendorClass, text('HTTPClient')]], file), none(/needs an http URL/)],
    ['a name with control characters is not asked for', 'bios', offer([], { siaddr: FROM, file: 'a\r\nb' }), none(/control characters/)],
  ])('%s (%s)', (_name, role, packet, expected) => {
    expect(target(role, packet)).toEqual(expected);
  });
});

describe('what is shown of an answer', () => {
  it('an offer with all fields', () => {
    const packet = offer([[OPT.subnetMask, ips('255.255.255.0')], [OPT.router, ips('10.77.0.254')], [OPT.leaseTime, uint32(3600)], [OPT.vendorClass, text('PXEClient')], [OPT.vendorSpecific, subOptions([[6, uint8(8)]])]], { siaddr: FROM, file: 'a', giaddr: '10.77.0.3' });
    expect(readAnswer(packet, '10.77.0.3', 'bios', 12)).toEqual({
      kind: 'offer',
      from: '10.77.0.3',
      server: FROM,
      relay: '10.77.0.3',
      afterMs: 12,
      times: 1,
      address: '10.77.0.11',
      netmask: '255.255.255.0',
      router: ['10.77.0.254'],
      leaseSeconds: 3600,
      siaddr: FROM,
      file: 'a',
      vendorClass: 'PXEClient',
      vendorSpecific: '060108',
      pxeDiscovery: 'boot the file of this answer',
      target: { via: 'tftp', server: FROM, file: 'a' },
    });
  });

  it('an answer without an address is a proxy, and what is no offer is no answer', () => {
    expect(readAnswer(offer([], { yiaddr: '0.0.0.0' }), FROM, 'bios', 1)?.kind).toBe('proxy');
    expect(readAnswer(packetWith([[OPT.messageType, message('ack')]], { op: 2 }), FROM, 'bios', 1)).toBeUndefined();
    expect(readAnswer(packetWith([[OPT.messageType, message('offer')]]), FROM, 'bios', 1)).toBeUndefined();
  });

  it('equal answers count as one that came often, different ones stay apart', () => {
    const [a, b] = [readAnswer(offer([]), FROM, 'bios', 3)!, readAnswer(offer([], { yiaddr: '10.77.0.12' }), FROM, 'bios', 4)!];
    expect(merged([a, b, { ...a, afterMs: 9 }])).toEqual([{ ...a, times: 2 }, b]);
  });

  it('no text of a stranger keeps a character that moves a cursor or turns a line around', () => {
    const evil = '\x1b[2J\x9b1;1H\r\nroot\x07';
    const answer = readAnswer(offer([[OPT.hostName, text(evil)], [OPT.vendorClass, text(evil)], [OPT.tftpServer, text(evil)], [OPT.bootFile, text(`http://${evil}`)]], { file: evil, sname: evil }), FROM, 'ipxe', 1);
    expect(JSON.stringify(answer)).toContain('root');
    expect(JSON.stringify(answer)).not.toMatch(/\\u00|\\r|\\n|[\x00-\x1f\x7f-\x9f]/);
    expect(shown('a\u202eb\u2066c\ufeff')).toBe('a?b?c?');
    expect(shown('x'.repeat(300))).toHaveLength(255);
  });

  it.each([
    ['10.77.0.1', '10.77.0.254', '255.255.255.0', true],
    ['10.77.0.1', '10.77.1.1', '255.255.255.0', false],
    ['10.77.0.1', '10.77.1.1', '255.255.0.0', true],
    ['200.0.0.1', '200.0.0.2', '255.255.255.255', false],
  ])('%s and %s with %s share a link: %s', (a, b, mask, expected) => {
    expect(sameLink(a, b, mask)).toBe(expected);
  });
});

describe('scripts', () => {
  it('the files of kernel and initrd lines are found, whatever options stand before them', () => {
    const script = ['#!ipxe', 'echo hi', 'kernel --name kernel -t 5 http://10.77.0.1/k ro initrd=i || goto retry', 'initrd --name i http://10.77.0.1/i && boot', 'initrd sub/rel', 'kernel ${base}/k', 'initrd https://10.77.0.1/x', 'chain http://10.77.0.1/next'].join('\n');
    expect(filesOf(script, 'http://10.77.0.1/a/script')).toEqual([
      { command: 'kernel', url: 'http://10.77.0.1/k' },
      { command: 'initrd', url: 'http://10.77.0.1/i' },
      { command: 'initrd', url: 'http://10.77.0.1/a/sub/rel' },
      { command: 'kernel', why: '${base}/k: only the machine knows its variables' },
      { command: 'initrd', why: 'https://10.77.0.1/x: not an http URL' },
    ]);
    expect(filesOf('#!ipxe\nkernel rel', undefined)).toEqual([{ command: 'kernel', why: 'rel: relative, and the script has no URL' }]);
  });

  it('a script of a thousand lines makes us ask no thousand times, and shows its first ones clean', () => {
    const script = `#!ipxe\n${'kernel http://10.77.0.1/k\n'.repeat(1000)}`;
    expect(filesOf(script, undefined)).toHaveLength(MOST_FILES);
    expect(firstLines(script)).toHaveLength(12);
    expect(firstLines('#!ipxe\r\necho \x1b[31m\r\n')).toEqual(['#!ipxe', 'echo ?[31m']);
  });

  it.each([
    ['#!ipxe\necho rackseed: RS-SILENT: no profile names this machine\nsleep 10\nexit 1\n', 'the script says: RS-SILENT: no profile names this machine'],
    ['#!ipxe\n:again\necho rackseed: RS-HOLD: 5 boots failed in a row\nsleep 60\n', 'the script says: RS-HOLD: 5 boots failed in a row'],
    ['#!ipxe\necho rackseed: RS-LOCAL: profile disk boots from disk\nexit 0\n', undefined],
    ['#!ipxe\necho rackseed: node n1\nkernel x\n:retry\necho rackseed: RS-FETCH: again\n', undefined],
  ])('%j is a refusal: %s', (script, expected) => {
    expect(refusalIn(script)).toBe(expected);
  });
});

describe('what a fetched file is', () => {
  const pe = (machine: number): Buffer => {
    const bytes = Buffer.alloc(256);
    bytes.write('MZ');
    bytes.writeUInt32LE(128, 0x3c);
    bytes.write('PE\0\0', 128);
    bytes.writeUInt16LE(machine, 132);
    return bytes;
  };
  it.each([
    ['an iPXE script', Buffer.from('#!ipxe\n'), 'script'],
    ['x64', pe(0x8664), 'efi-amd64'],
    ['ia32', pe(0x14c), 'efi-i386'],
    ['aa64', pe(0xaa64), 'efi-arm64'],
    ['riscv64', pe(0x5064), 'efi-riscv64'],
    ['LoongArch', pe(0x6264), 'efi'],
    ['MZ alone, header beyond what was kept', Buffer.concat([Buffer.from('MZ'), Buffer.alloc(58), Buffer.from([255, 255, 255, 255])]), 'program'],
    ['nothing', Buffer.alloc(0), 'program'],
    ['two bytes', Buffer.from('MZ'), 'program'],
  ])('%s', (_name, bytes, expected) => {
    expect(kindOf(bytes)).toBe(expected);
  });
});
