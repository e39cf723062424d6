// GRUB's configuration: one for each decision, nothing in it that GRUB's shell would read otherwise, and no end at a prompt.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decide, type View } from '../../src/boot/decide.ts';
import { FAILURES_BEFORE_HOLD } from '../../src/boot/hold.ts';
import { garbledByGrub, GRUB_ROOT_CFG, grubFor, grubQuoted, renderGrub, renderGrubTrouble, type GrubFor } from '../../src/boot/grub.ts';
import { chooseLoader, DEBIAN_12_LOADERS, shimLacks, type LoaderProgram } from '../../src/boot/loader.ts';
import { namesFor } from '../../src/boot/loader-set.ts';
import type { BootRequest } from '../../src/boot/request.ts';
import { GRUB_CFG, readTftpName } from '../../src/boot/urls.ts';
import { bootSet, bootSetDigest, bootWith, generationOf, nodeNamed } from './boot-world.ts';

const MAC = '52:54:00:00:00:01';
const to: GrubFor = { mac: MAC, baseUrl: 'http://10.77.0.1:8080', via: 'http', node: 'n1', profile: 'p', bootId: '01B' };
const boots = { kind: 'boot', bootSet: bootSetDigest } as const;
const hex = (digest: string): string => digest.slice('sha256:'.length);

/** What GRUB's lexer (script/yylex.l) makes of one word of single quotes and backslashes; undefined where it would be more than that. */
function read(word: string): string | undefined {
  let text = '';
  for (let rest = word; rest !== ''; ) {
    const [whole, quoted, escaped] = /^(?:'([^']*)'|\\(.))/s.exec(rest) ?? [];
    if (whole === undefined) return undefined;
    text += quoted ?? escaped;
    rest = rest.slice(whole.length);
  }
  return text;
}

describe('a word of GRUB\'s shell', () => {
  it.each([
    ['a variable', '$root ${root}', "'$root ${root}'"],
    ['a quote', "it's", "'it'\\''s'"],
    ['nothing but quotes', "''", "''\\'''\\'''"],
    ['double quotes', 'a "b"', `'a "b"'`],
    ['a backslash at the end', 'a\\', "'a\\'"],
    ['a newline', 'a\nreboot', "'a?reboot'"],
    ['braces', '{ a; }', "'{ a; }'"],
    ['what ends or joins commands', 'a; b | c & d', "'a; b | c & d'"],
    ['a comment', '#a', "'#a'"],
    ['an escape of the terminal', '\x1b[2J', "'?[2J'"],
    ['nothing', '', "''"],
  ])('%s is itself', (_what, raw, quoted) => {
    expect(grubQuoted(raw)).toBe(quoted);
  });

  it('whatever the text, it is one word, and that text but for what no console shows', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.string({ unit: fc.constantFrom(..."'\\\"$;{}\n ") })), (raw) => {
        expect(read(grubQuoted(raw))).toBe(raw.replace(/[^\x20-\x7e]/g, '?'));
      }),
    );
  });
});

describe('a boot', () => {
  it('by HTTP fetches the blobs, with the arguments that the initrd stage needs and no address', () => {
    const { kernel, initrds } = bootSet.image;
    const cfg = renderGrub(boots, { ...bootSet, cmdline: ['console=ttyS0', 'a=$b;{c}'] }, to);
    expect(cfg.split('\n').slice(1)).toEqual([
      `if linux '/blobs/sha256/${hex(kernel.digest)}?boot=01B' 'rackseed=http://10.77.0.1:8080' 'rackseed.boot=01B' 'BOOTIF=01-52-54-00-00-00-01' 'console=ttyS0' 'a=$b;{c}'; then`,
      `  if initrd ${initrds.map(({ digest }) => `'/blobs/sha256/${hex(digest)}?boot=01B'`).join(' ')}; then boot; fi`,
      'fi',
      "echo 'rackseed: RS-FETCH: kernel or initrd did not start, asking again in 5 s'",
      '',
    ]);
  });

  it('by TFTP fetches the files of its MAC', () => {
    const cfg = renderGrub(boots, bootSet, { ...to, via: 'tftp' });
    expect(cfg).toContain("if linux '/52-54-00-00-00-01/kernel' ");
    expect(cfg).toContain("if initrd '/52-54-00-00-00-01/initrd'; then boot; fi");
    expect(cfg).not.toContain('/blobs/');
  });

  it.each(['a="b', "a='b'", 'a=\\b'])('is held when GRUB would write a backslash into %s', (entry) => {
    expect(garbledByGrub(['console=ttyS0', entry])).toBe(entry);
    const cfg = renderGrub(boots, { ...bootSet, cmdline: [entry] }, to);
    expect(cfg).toContain('RS-HOLD');
    expect(cfg).not.toContain('linux');
    // Its boot set stays as it is: only another boot has the mended one.
    expect(cfg).toMatch(/starting over in 60 s'\nsleep 55\nreboot\n$/);
  });
});

describe('what is no boot', () => {
  const held = { kind: 'hold', why: "it's $broken; reboot", hint: 'mend `it`', retryAfterS: 60 } as const;

  it('a hold says why and what to do, waits, and is asked for again', () => {
    expect(renderGrub(held, undefined, to)).toBe("echo 'rackseed: RS-HOLD: it'\\''s $broken; reboot; asking again in 60 s'\necho 'rackseed: mend `it`'\nsleep 55\n");
  });

  it('without a boot the machine starts over, for only a DISCOVER opens one', () => {
    const { bootId: _, ...unknown } = to;
    expect(renderGrub(held, undefined, unknown)).toMatch(/starting over in 60 s'\n.*\nsleep 55\nreboot\n$/);
  });

  it.each([
    ['exit', /^echo 'rackseed: RS-LOCAL: disk'\nsleep 10\nreboot\n$/],
    ['sanboot', /\nset file=\/EFI\/BOOT\/BOOTX64\.EFI\nif \[ "\$grub_cpu" = i386 \]; then set file=\/EFI\/BOOT\/BOOTIA32\.EFI; fi\nsearch --no-floppy --set=disk --file "\$file"\nif \[ -n "\$disk" \]; then\n {2}if chainloader "\(\$disk\)\$file"; then boot; fi\nfi\nsleep 10\nreboot\n$/],
    ['\\EFI\\debian/shimx64.efi', /\nset file='\/EFI\/debian\/shimx64\.efi'\nsearch [^\n]* --file "\$file"\n/],
  ] as const)('a local boot leaves by %s', (exit, expected) => {
    expect(renderGrub({ kind: 'local', why: 'disk', exit }, undefined, to)).toMatch(expected);
  });

  it.each([renderGrub({ kind: 'silent', why: 'a\nreboot' }, undefined, to), renderGrub({ kind: 'loader', file: 'uki.efi', via: 'http' }, undefined, to), renderGrub(boots, undefined, to), renderGrubTrouble()])('%j says it and waits', (cfg) => {
    expect(cfg).toMatch(/^echo 'rackseed: RS-[A-Z]+: [^\n]+'\nsleep \d+\n(reboot\n)?$/);
  });

  it('never comes to a prompt: the root configuration has no end', () => {
    expect(GRUB_ROOT_CFG).toBe('while true; do\n  source /$net_default_mac/grub.cfg\n  sleep 5\ndone\n');
    // GRUB's own variable, as it writes it.
    expect(readTftpName(`/${MAC}/${GRUB_CFG}`)).toEqual({ mac: MAC, file: GRUB_CFG });
  });
});

describe('the decision', () => {
  const n1 = nodeNamed('n1', { loader: 'shim' });
  const generation = generationOf(n1);
  const rom: BootRequest = { via: 'dhcp', asker: 'rom', arch: 'amd64', firmware: 'uefi', message: 'discover' };
  const SET: readonly LoaderProgram[] = [...DEBIAN_12_LOADERS, { name: 'shimx64.efi.signed', runsOn: 'efi-amd64' }, { name: 'grubnetx64.efi.signed', runsOn: 'efi-amd64' }, { name: 'grubnetia32.efi', runsOn: 'efi-i386' }];
  const view: View = { node: n1, failedInRow: 0, loaders: SET, openBoot: bootWith(['discover', 'loader']) };

  it('is the iPXE script\'s: a boot, and a hold after too many failures', () => {
    expect(decide(view, rom, generation)).toEqual({ kind: 'loader', file: 'shimx64.efi.signed', via: 'tftp' });
    const asks: BootRequest = { via: 'tftp', wants: 'script', arch: 'amd64', firmware: 'uefi' };
    expect(decide(view, asks, generation)).toEqual(boots);
    const failing = { ...view, failedInRow: FAILURES_BEFORE_HOLD };
    expect(decide(failing, rom, generation)).toMatchObject({ kind: 'loader', file: 'shimx64.efi.signed' });
    expect(grubFor({ decision: decide(failing, asks, generation), node: n1, boot: view.openBoot! }, to)).toMatch(/RS-HOLD: 5 boots failed in a row.*\n.*rackseed node release n1'/);
  });

  it('IA32 firmware gets GRUB, and starts a kernel of 64 bits', () => {
    const ia32 = { ...rom, arch: 'i386' } as const;
    const auto = { ...view, node: nodeNamed('n1') };
    expect(decide(auto, ia32, generation)).toEqual({ kind: 'loader', file: 'grubnetia32.efi', via: 'tftp' });
    expect(decide(auto, { via: 'tftp', wants: 'script', arch: 'i386', firmware: 'uefi' }, generation)).toEqual(boots);
  });

  it.each([
    ['shim', SET.filter(({ name }) => !name.startsWith('shim')), 'shimx64.efi or shimx64.efi.signed is not in the loader set (Debian\'s package shim-signed has it)'],
    ['GRUB', SET.filter(({ name }) => !name.startsWith('grubnetx')), 'grubnetx64.efi.signed is not in the loader set beside shim (Debian\'s package grub-efi-amd64-signed has it)'],
    ['a GRUB for this processor', SET.map((one) => ({ ...one, runsOn: one.name.startsWith('grubnetx') ? ('efi-arm64' as const) : one.runsOn })), expect.stringContaining('grubnetx64.efi.signed is not') as string],
  ])('a set without %s is a reason', (_what, set, why) => {
    const chosen = chooseLoader({ firmware: 'uefi', arch: 'amd64' }, set, 'shim');
    expect(chosen).toEqual({ why: typeof why === 'string' ? `no loader for amd64 uefi: ${why}` : why });
  });

  it('either name will do for GRUB, which shim knows by one alone', () => {
    expect([shimLacks(['shimx64.efi', 'grubx64.efi']), shimLacks(['shimx64.efi', 'grubnetx64.efi.signed'])]).toEqual([undefined, undefined]);
    expect(namesFor('grubx64.efi', { loaders: 'sb' }, undefined)).toEqual(['sb/grubx64.efi', 'sb/grubnetx64.efi.signed', 'grubx64.efi', 'grubnetx64.efi.signed']);
    expect(namesFor('sb/grubx64.efi', undefined, undefined)).toEqual(['sb/grubx64.efi', 'sb/grubnetx64.efi.signed']);
  });
});
