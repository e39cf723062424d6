// boot-profiles/quirks.yaml: the operators' own quirks, and every fault of that file. It is read, watched and swapped with the profiles.
import { basename } from 'node:path';
import { z } from 'zod';
import { LOADER_CHOICES, LOADER_FILE } from '../boot/loader.ts';
import type { ExitMethod } from '../boot/node.ts';
import { PROXY_STYLES, SHIPPED_QUIRKS, type Quirk } from '../boot/quirks.ts';
import type { Fault } from '../errors.ts';
import { readYaml } from './document.ts';
import { knownKeys, plainWords, zodFaults } from './faults.ts';
import { exit, line, matching } from './profile-schema.ts';

/** So no profile is called `quirks`. */
export function isQuirksFile(file: string): boolean {
  return /^quirks\.ya?ml$/.test(basename(file));
}

/** A file of it is taken from the machine's own set; where that has none, the usual loader goes out. */
const loader = matching(new RegExp(`^(${LOADER_CHOICES.join('|')})$|${LOADER_FILE.source}`), `not a loader of a quirk: ${LOADER_CHOICES.join(', ')}, or a file of the loader set, such as ipxe.efi`);

/** What SMBIOS and option 60 hold is this long at most. */
const glob = line.refine((value) => value !== '' && value.length <= 255, 'must be 1 to 255 characters').refine((value) => !/^\*+$/.test(value), 'fits everything');

/** A map whose only key is misspelt has that one fault. */
const when = ({ issues }: { readonly issues: readonly unknown[] }) => issues.length === 0;

const match = z
  .strictObject({
    vendorClass: glob.optional().describe('DHCP option 60 of the machine as it starts; * stands for anything, such as PXEClient:Arch:00000*'),
    arch: z.enum(['i386', 'amd64', 'arm64', 'armhf', 'riscv64']).optional().describe('its processor as DHCP says it; a BIOS counts as amd64'),
    mac: matching(/^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){0,5}$/, 'not the start of a MAC address, such as 08:00:27').optional().describe('the first bytes of the MAC of its card, such as 08:00:27'),
    manufacturer: glob.optional().describe("SMBIOS' manufacturer, as the machine's last boot reported it; * stands for anything"),
    product: glob.optional().describe("SMBIOS' product name, likewise, such as ProLiant *Gen8"),
  })
  .refine((value) => Object.keys(value).length > 0, { error: 'needs at least one of vendorClass, arch, mac, manufacturer, product', when });

const send = z
  .strictObject({
    proxyStyle: z.enum(PROXY_STYLES).optional().describe("beside another server's leases: the boot file in the OFFER, or by port-4011 alone; auto: BIOS the one, UEFI the other"),
    option43: matching(/^(auto|none|[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){0,254})$/, 'must be auto, none, or bytes in hex, such as 06:01:08').optional().describe('option 43 for PXE ROMs: none, or its bytes in hex, such as 06:01:08; auto: those to BIOS, none to UEFI'),
    blksize: matching(/^(51[2-9]|5[2-9]\d|[6-9]\d\d|[1-9]\d{3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-3]\d\d|654[0-5]\d|6546[0-4])$/, 'must be 512 to 65464').optional().describe('the most bytes of a TFTP block, 512 to 65464; never more than the subnet carries'),
    exit: exit.optional().describe('as exit of a node, which comes before it'),
    loader: loader.optional().describe(`as loader of a profile or node, which comes before it: ${LOADER_CHOICES.join(', ')}, or a file of the loader set`),
  })
  .refine((value) => Object.keys(value).length > 0, { error: 'needs at least one of proxyStyle, option43, blksize, exit, loader', when });

export const quirksSchema = z.strictObject({
  quirks: z
    .array(
      z.strictObject({
        name: matching(/^[a-z0-9][a-z0-9._-]{0,63}$/, 'not a name: small letters, digits and . _ -, at most 64').describe('what node show and the record of a boot call it'),
        evidence: line.optional().describe('where it was seen: a URL, or a capture'),
        match: match.describe('which machines: all that is written must fit'),
        send: send.describe('what they are sent in place of the usual'),
      }),
    )
    .describe('machines that need something else; of each member of send the first quirk that fits counts, and these come before the shipped ones'),
});

/** At most one file; never throws. */
export function readQuirks(files: readonly { readonly file: string; readonly text: string }[]): { readonly quirks: readonly Quirk[]; readonly faults: readonly Fault[] } {
  const [first, ...others] = files;
  if (!first) return { quirks: [], faults: [] };
  const faults: Fault[] = others.map(({ file }) => ({ file, line: 1, column: 1, message: `quirks stand in ${first.file} already` }));
  const yaml = readYaml(first.text, first.file, { scalars: 'text' });
  faults.push(...yaml.faults);
  if (yaml.value === undefined) return { quirks: [], faults };
  const parsed = quirksSchema.safeParse(yaml.value ?? { quirks: [] }, { error: plainWords });
  if (!parsed.success) return { quirks: [], faults: [...faults, ...zodFaults(parsed.error, yaml.document, yaml.lines, first.file, (path) => knownKeys(quirksSchema, path))] };
  const quirks = parsed.data.quirks.map(
    ({ name, evidence, match: { mac, ...match }, send: { option43, blksize, exit: method, ...send } }): Quirk => ({
      name,
      ...(evidence === undefined ? {} : { evidence }),
      match: defined({ ...match, mac: mac && bytes(mac) }),
      send: defined({ ...send, option43: option43 && bytes(option43), blksize: blksize === undefined ? undefined : Number(blksize), exit: method as ExitMethod | undefined }),
    }),
  );
  for (const [index, { name }] of quirks.entries()) {
    if (SHIPPED_QUIRKS.some((shipped) => shipped.name === name)) {
      const hint = 'give yours another name; it comes before the shipped ones, and the usual value takes theirs back';
      faults.push({ file: first.file, ...yaml.place(['quirks', index, 'name']), message: `${name} is the name of a shipped quirk`, hint });
    }
    const before = quirks.findIndex((one) => one.name === name);
    if (before === index) continue;
    const { line: at, column } = yaml.place(['quirks', before, 'name']);
    faults.push({ file: first.file, ...yaml.place(['quirks', index, 'name']), message: `quirk ${name} stands twice, also at ${first.file}:${at}:${column}` });
  }
  return { quirks, faults };
}

/** Hex as it is compared and shown; words stay. */
function bytes(hex: string): string {
  return hex.toLowerCase().replaceAll('-', ':');
}

function defined<T extends object>(value: T): { [Key in keyof T]: Exclude<T[Key], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as { [Key in keyof T]: Exclude<T[Key], undefined> };
}
