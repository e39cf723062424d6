// Sessions: who may enrol, what a report ends, and the texts that nodes read.
import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { renderGrub } from '../../src/boot/grub.ts';
import { reachable, renderScript } from '../../src/boot/ipxe.ts';
import type { Node } from '../../src/boot/node.ts';
import type { BootSet } from '../../src/boot/profile.ts';
import { ENROL_WITHIN_MS, endOf, isReportable, readSmbios, refuseClaim, renderConfig } from '../../src/boot/session.ts';
import { hostKeyOf } from '../../src/boot/ssh-keys.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { factsAsEnvironment, factsOf } from '../../src/postboot/facts.ts';
import { bootSet, bootSetDigest, bootWith, nodeNamed, NOW } from './boot-world.ts';

const ip = '10.77.0.11';
const MACS = ['52:54:00:00:00:01', '52:54:00:00:00:02'];
const claimable = bootWith(['discover', 'offer', 'lease', 'script'], { ip, bootSet: bootSetDigest });

test('of SMBIOS what says something is kept, as one line of plain text', () => {
  const said = { manufacturer: ' HP\u001b[2J ', product: 'x'.repeat(300), serial: 'To Be Filled By O.E.M.', other: 'y' };
  expect(readSmbios(new Map(Object.entries(said)))).toEqual({ manufacturer: 'HP?[2J', product: 'x'.repeat(255) });
  for (const nothing of ['', ' ', 'Default string', 'Not Specified', 'None', '0', '0000000000']) expect(readSmbios(new Map([['serial', nothing]]))).toEqual({});
});

describe('refuseClaim', () => {
  it.each([
    ['the machine itself may enrol', claimable, { ip }, undefined],
    ['also when it names its boot and card', claimable, { ip, bootId: claimable.id, mac: claimable.mac }, undefined],
    ['another address may not', claimable, { ip: '10.77.0.66' }, /another address/],
    ["another machine's card may not", claimable, { ip, mac: '52:54:00:00:00:09' }, /another machine/],
    ['another card of the same node may', claimable, { ip, mac: '52:54:00:00:00:02' }, undefined],
    ["another boot's id may not", claimable, { ip, bootId: '01HF0000000000000000000001' }, /not this machine's open boot/],
    ['a machine without an open boot may not', undefined, { ip }, /no boot of this machine/],
    ['a boot that has ended may not', { ...claimable, state: 'ready' as const }, { ip }, /has ended/],
    ['a boot that has not fetched its script may not', bootWith(['discover', 'lease'], { ip }), { ip }, /has not fetched its script/],
  ])('%s', (_sentence, boot, claim, why) => {
    const refused = refuseClaim(boot, MACS, claim, NOW);
    if (why === undefined) expect(refused).toBeUndefined();
    else expect(refused).toMatch(why);
  });

  it('refuses ten minutes after the script', () => {
    const scriptAt = claimable.stages.at(-1)!.lastAt;
    expect(refuseClaim(claimable, MACS, { ip }, scriptAt + ENROL_WITHIN_MS)).toBeUndefined();
    expect(refuseClaim(claimable, MACS, { ip }, scriptAt + ENROL_WITHIN_MS + 1)).toMatch(/more than 10 minutes/);
  });
});

describe('reports', () => {
  it.each([
    ['root', true], ['userspace', true], ['ready', true], ['failed', true], ['step:30-k0s', true],
    ['discover', false], ['script', false], ['kernel', false], ['config', false], ['step:', false], ['step:../x', false], ['', false],
  ])('%s may be reported by a node: %s', (stage, may) => {
    expect(isReportable(stage)).toBe(may);
  });

  it.each([
    [{ stage: 'ready', state: 'ok', detail: {} } as const, { state: 'ready' }],
    [{ stage: 'root', state: 'ok', detail: {} } as const, undefined],
    [{ stage: 'step:30-k0s', state: 'running', detail: { message: 'try 1' } } as const, undefined],
    [{ stage: 'step:30-k0s', state: 'failed', detail: { message: 'no such file' } } as const, { state: 'failed', why: 'step 30-k0s: no such file' }],
    [{ stage: 'root', state: 'failed', detail: { message: 'bad sha256' } } as const, { state: 'failed', why: 'root: bad sha256' }],
    [{ stage: 'failed', state: 'failed', detail: { message: 'gave up' } } as const, { state: 'failed', why: 'gave up' }],
  ])('%j ends the boot as %j', (report, end) => {
    expect(endOf(report)).toEqual(end);
  });
});

describe('what nodes read', () => {
  const n1 = nodeNamed('n1', { vars: { 'my-var': 'x' }, labels: { rack: 'r1' } });

  it('config is one pair a line, with the digest that the boot set names', () => {
    const config = renderConfig(claimable, bootSet, n1);
    expect(config).toContain(`squashfs-digest ${bootSet.image.squashfs.digest}\n`);
    expect(config).toContain(`squashfs-url /blobs/sha256/${bootSet.image.squashfs.digest.slice(7)}?boot=${claimable.id}\n`);
    expect(config).toMatch(/^machine-id [0-9a-f]{32}$/m);
    expect(config.split('\n').filter(Boolean).every((line) => /^[a-z-]+ \S/.test(line))).toBe(true);
  });

  it('with a public base the squashfs comes from there under one URL for all nodes, and from us when that fails', () => {
    const config = renderConfig(claimable, bootSet, n1, { publicBase: 'https://cdn.example/rackseed' });
    const path = `/blobs/sha256/${bootSet.image.squashfs.digest.slice(7)}`;
    expect(config).toContain(`squashfs-url https://cdn.example/rackseed${path}\nsquashfs-fallback ${path}?boot=${claimable.id}\n`);
  });

  it('with other servers the squashfs comes from ours first, then from them in their order', () => {
    const path = `/blobs/sha256/${bootSet.image.squashfs.digest.slice(7)}`;
    const places = (config: string) => config.split('\n').filter((line) => /^squashfs-(url|fallback) /.test(line));
    const fallbacks = ['http://a.example', 'https://b.example/x'];
    expect(places(renderConfig(claimable, bootSet, n1, { fallbacks }))).toEqual([`squashfs-url ${path}?boot=${claimable.id}`, `squashfs-fallback http://a.example${path}`, `squashfs-fallback https://b.example/x${path}`]);
    expect(places(renderConfig(claimable, bootSet, n1, { publicBase: 'http://cdn', fallbacks }))).toEqual([`squashfs-url http://cdn${path}`, `squashfs-fallback ${path}?boot=${claimable.id}`, `squashfs-fallback http://a.example${path}`, `squashfs-fallback https://b.example/x${path}`]);
  });

  const blob = (name: string) => ({ digest: digestOfBytes(name), size: 1 });
  const url = (name: string) => `/blobs/sha256/${digestOfBytes(name).slice(7)}?boot=${claimable.id}`;
  const base64 = (text: string) => Buffer.from(text).toString('base64');
  const ED = 'ssh-ed25519 AAAA me';
  it.each<[string, Partial<BootSet>, Partial<Node>, string[]]>([
    ['what is not said is absent', {}, {}, ['root-state none']],
    ['a disk', { root: { state: 'LABEL=s', disk: 'pci-0', format: 'xfs', wipe: true, onMissing: 'ephemeral', size: '2g', minSerial: 7 } }, {}, ['min-serial 7', 'root-state LABEL=s', 'root-size 2g', 'disk pci-0', 'disk-format xfs', 'disk-wipe yes', 'disk-missing ephemeral']],
    ['a cache', { root: { state: 'LABEL=s', cache: 'disk' } }, {}, ['root-state LABEL=s', 'cache disk']],
    ['dm-verity', { image: { ...bootSet.image, verity: { rootHash: 'a'.repeat(64), blocks: 17 } } }, {}, [`verity ${'a'.repeat(64)} 17`, 'root-state none']],
    ['a signed image', { image: { ...bootSet.image, signed: { manifest: blob('manifest'), signature: blob('signature') } } }, {}, [`manifest-url ${url('manifest')}`, `manifest-digest ${digestOfBytes('manifest')}`, `signature-url ${url('signature')}`, `signature-digest ${digestOfBytes('signature')}`, 'root-state none']],
    ['a shell', { shell: true }, {}, ['root-state none', 'shell yes']],
    ['keys of profile and node, each once', { sshKeys: [ED] }, { sshKeys: [`${ED} `, 'ssh-ed25519 BBBB', ED] }, ['root-state none', `ssh-key ${ED}`, 'ssh-key ssh-ed25519 BBBB']],
    ["files, the node's over the profile's, programs as such, and counted in front", { config: { a: 'x', 'b/c': '#!/bin/sh\n' } }, { config: { a: 'y\nz ä', e: '' } }, ['root-state none', 'files 3', `file 0644 a ${base64('y\nz ä')}`, `file 0755 b/c ${base64('#!/bin/sh\n')}`, 'file 0644 e ']],
  ])('%s', (_what, of, own, lines) => {
    const config = renderConfig(claimable, { ...bootSet, ...of }, { ...n1, ...own });
    expect(config.split('\n').slice(6, -1)).toEqual(lines);
    expect(config.split('\n').slice(0, 6).map((line) => line.split(' ')[0])).toEqual(['node', 'hostname', 'machine-id', 'squashfs-url', 'squashfs-digest', 'squashfs-size']);
  });

  it('the host key is one line, and its own text again', () => {
    const { file } = hostKeyOf(Buffer.alloc(32, 7), 'n1');
    const line = /^ssh-host-key (\S+)$/m.exec(renderConfig(claimable, bootSet, n1, { hostKey: file }))![1]!;
    expect(Buffer.from(line, 'base64').toString()).toBe(file);
  });

  it('a line break in a value of an old boot set brings no key of its own', () => {
    const config = renderConfig(claimable, { ...bootSet, sshKeys: ['ssh-ed25519 AAAA\nshell yes\r\ndisk-wipe yes'] }, n1);
    expect(config).toContain('\nssh-key ssh-ed25519 AAAA shell yes disk-wipe yes\n');
  });

  it('facts survive being sourced by a POSIX shell, whatever a value holds', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 40 }).filter((text) => !text.includes('\0')), (value) => {
        const env = factsAsEnvironment(factsOf({ ...claimable, ip }, bootSet, { ...n1, vars: { evil: value } }, 'http://10.77.0.1:8080'));
        const seen = execFileSync('sh', ['-c', 'eval "$(cat)"; printf %s "$RACKSEED_VAR_EVIL"'], { input: env, encoding: 'utf8' });
        expect(seen).toBe(value);
      }),
      { numRuns: 40 },
    );
  });

  it("a node's own variable overrides its profile's, and names become shell names", () => {
    const env = factsAsEnvironment(factsOf({ ...claimable, ip }, bootSet, { ...n1, vars: { zone: 'b', 'my-var': 'x' } }, 'http://10.77.0.1:8080'));
    expect(env).toContain("RACKSEED_VAR_ZONE='b'\n");
    expect(env).toContain("RACKSEED_VAR_MY_VAR='x'\n");
    expect(env).toContain(`RACKSEED_ARTIFACT_K0S_SHA256='${bootSet.artifacts['k0s']!.digest.slice(7)}'\n`);
  });
});

describe('renderScript', () => {
  const to = { mac: '52:54:00:00:00:01', baseUrl: 'http://10.77.0.1:8080', node: 'n1', profile: 'k0s-single', bootId: claimable.id };

  it('boots kernel and initrd by digest with what the loader itself knows of the network', () => {
    expect(renderScript({ kind: 'boot', bootSet: bootSetDigest }, bootSet, to)).toMatchInlineSnapshot(`
      "#!ipxe
      echo rackseed: node n1, profile k0s-single, image debian-k0s, boot 01HF0000000000000000000000
      kernel --name kernel http://10.77.0.1:8080/blobs/sha256/${bootSet.image.kernel.digest.slice(7)}?boot=01HF0000000000000000000000 initrd=initrd0 rackseed=http://10.77.0.1:8080 rackseed.boot=01HF0000000000000000000000 ip=\${netX/ip}::\${netX/gateway}:\${netX/netmask}:n1::off:\${netX/dns} BOOTIF=01-\${netX/mac:hexhyp} console=ttyS0 || goto retry
      initrd --name initrd0 http://10.77.0.1:8080/blobs/sha256/${bootSet.image.initrds[0]!.digest.slice(7)}?boot=01HF0000000000000000000000 || goto retry
      boot || goto retry
      :retry
      echo rackseed: RS-FETCH: kernel or initrd did not start, asking again in 5 s
      imgfree
      sleep 5
      chain --replace http://10.77.0.1:8080/script/52-54-00-00-00-01 || goto retry
      "
    `);
  });

  it.each([
    [{ root: { state: 'LABEL=s', cache: 'disk' } } as const, ' rackseed.state=LABEL=s '],
    [{ root: { state: 'LABEL=s' } } as const, ' '],
    [{ shell: true } as const, ' rackseed.shell=1 '],
    [{ root: { state: 'LABEL=s', cache: 'disk' }, shell: true } as const, ' rackseed.state=LABEL=s rackseed.shell=1 '],
  ])('what the initrd stage must know before its config is on the command line, of iPXE and of GRUB: %j', (more, words) => {
    const decision = { kind: 'boot', bootSet: bootSetDigest } as const;
    expect(renderScript(decision, { ...bootSet, ...more }, to)).toContain(`BOOTIF=01-\${netX/mac:hexhyp}${words}console=ttyS0`);
    expect(renderGrub(decision, { ...bootSet, ...more }, { ...to, via: 'http' })).toContain(`'BOOTIF=01-52-54-00-00-00-01'${words.replace(/([^ ]+)/g, "'$1'")}'console=ttyS0'`);
  });

  it('with a public base takes kernel and initrds from there, from us when that fails, and asks again when both do', () => {
    const script = renderScript({ kind: 'boot', bootSet: bootSetDigest }, bootSet, { ...to, publicBase: 'http://cdn.example/rackseed' });
    const [kernel, initrd] = [bootSet.image.kernel, bootSet.image.initrds[0]!].map(({ digest }) => `/blobs/sha256/${digest.slice(7)}`);
    const args = / (initrd=initrd0 .*?) \|\| /.exec(script)![1];
    expect(script).toContain(`\nkernel --name kernel http://cdn.example/rackseed${kernel} ${args} || kernel --name kernel ${to.baseUrl}${kernel}?boot=${to.bootId} ${args} || goto retry\n`);
    expect(script).toContain(`\ninitrd --name initrd0 http://cdn.example/rackseed${initrd} || initrd --name initrd0 ${to.baseUrl}${initrd}?boot=${to.bootId} || goto retry\n`);
    expect(args).toContain(`rackseed=${to.baseUrl}`);
  });

  it.each([
    ['http://cdn.example', undefined, true],
    ['https://cdn.example', undefined, false],
    ['https://cdn.example', { features: ['http', 'bzimage'] } as const, false],
    ['https://cdn.example', { features: ['http', 'https', 'bzimage'] } as const, true],
    [undefined, { features: ['https'] } as const, false],
  ])('sends an iPXE to %s only when it says that it can: %j -> %s', (base, machine, may) => {
    expect(reachable(base, machine)).toBe(may);
  });

  it.each([
    ['silent', { kind: 'silent', why: 'no profile names this machine' } as const, /RS-SILENT: no profile names this machine/],
    ['hold', { kind: 'hold', why: 'x', retryAfterS: 7 } as const, /RS-HOLD: x; asking again in 7 s\nsleep 7\nchain/],
    ['a hint is a line of its own', { kind: 'hold', why: 'x', hint: 'do y', retryAfterS: 7 } as const, /asking again in 7 s\necho rackseed: do y\nsleep 7\nchain/],
    ['local by exit: UEFI goes on after an error only', { kind: 'local', why: 'disk', exit: 'exit' } as const, /\niseq \$\{platform\} efi \|\| exit 0\nexit 1\n$/],
    ['local by a file of the disk', { kind: 'local', why: 'disk', exit: 'EFI/debian/shimx64.efi' } as const, /\n:efi\nsanboot --no-describe --drive 0 --filename \\EFI\\debian\\shimx64\.efi \|\| exit 1\n$/],
    ['local by sanboot', { kind: 'local', why: 'disk', exit: 'sanboot' } as const, /\niseq \$\{platform\} efi && goto efi \|\|\nsanboot --no-describe --drive 0x80 \|\| exit 0\n:efi\nsanboot --no-describe --drive 0 \|\| exit 1\n$/],
  ])('%s is a script that says why', (_name, decision, expected) => {
    const script = renderScript(decision, undefined, to);
    expect(script.startsWith('#!ipxe\n')).toBe(true);
    expect(script).toMatch(expected);
  });

  it('a reason cannot smuggle in a command', () => {
    const script = renderScript({ kind: 'silent', why: 'x\nreboot ${mac} || poweroff' }, undefined, to);
    expect(script).toContain('x?reboot ?{mac} ?? poweroff');
  });
});
