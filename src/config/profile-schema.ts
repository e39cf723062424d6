// What may stand in one file of boot-profiles/: the one source of check, the editor's schema and docs/PROFILES.md.
import { z } from 'zod';
import { parseIp4, parseMac } from '../addr.ts';
import { LOADER_CHOICES, LOADER_FILE } from '../boot/loader.ts';
import { isLoaderSet, LOADER_SET, NO_LOADER_SET } from '../boot/loader-set.ts';
import { UKI_LOADER } from '../boot/uki.ts';
import { UKI_FILE } from '../boot/urls.ts';
import { NEXTS } from '../boot/node.ts';
import { isDigest, type Digest } from '../digest.ts';
import { optionsSchema } from './options-map.ts';
import { configSchema, sshSchema } from './profile-access.ts';
import { rootSchema } from './profile-root.ts';
import { flag, line, matching, text } from './profile-words.ts';

export { line, matching } from './profile-words.ts';

const mac = text
  .refine((value) => parseMac(value) !== undefined, 'not a MAC address, such as 52:54:00:12:34:56')
  .refine((value) => !/^.[13579bdf]/i.test(parseMac(value) ?? '00') && parseMac(value) !== '00:00:00:00:00:00', 'no card can have this address (it is a group address or all zeros)');

/** RFC 1123 in lower case, one label: it becomes the machine's hostname and the Kubernetes node's name. */
const nodeName = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'not a hostname: lower-case letters, digits and inner dashes, at most 63')
  .refine((name) => /[a-z]/.test(name) && name !== 'localhost' && parseMac(name) === undefined, 'cannot be a hostname here: it would be read as an address');

const varName = z.string().regex(/^[A-Za-z][A-Za-z0-9_]*$/, 'not a variable name: a letter, then letters, digits and underscores');
const vars = z.record(varName, line).nullish();

const labels = z
  .record(
    z.string().regex(/^[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?$/, 'not a label name, such as rack or example.org/rack'),
    matching(/^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$/, 'not a label value: letters, digits and inner . _ -, at most 63'),
  )
  .nullish();

/** Given by the script itself, for each boot anew; a second one would win or lose by chance. */
const OURS = /^(rackseed|rackseed\.boot|rackseed\.state|rackseed\.shell|ip|BOOTIF|initrd)=/;
export const cmdlineEntry = text
  .meta({ pattern: '^[!-~]+$' })
  .refine((entry) => /^[\x21-\x7e]*$/.test(entry), 'one parameter an entry: no spaces, line breaks, control or non-ASCII characters')
  .refine((entry) => entry !== '', 'empty parameter')
  // iPXE ends a command at these words and expands ${...} before the kernel sees it.
  .refine((entry) => !entry.includes('${') && !entry.startsWith('#') && entry !== '||' && entry !== '&&', 'iPXE would take this for a part of its script: no ${, no leading #, no || or &&')
  .refine((entry) => !OURS.test(entry), 'rackseed sets this parameter itself for each boot');

const IMAGE = /^([a-z0-9][a-z0-9._-]*)(?::([A-Za-z0-9_][A-Za-z0-9._-]{0,127})|@(sha256:[0-9a-f]{64}))?$/;

/** Of the schema alone the names; whether the loader set has the file is asked when names are resolved (references.ts). */
const LOADER_WORDS = [...LOADER_CHOICES, UKI_LOADER];
const LOADER = new RegExp(`^(${LOADER_WORDS.join('|')})$|${LOADER_FILE.source}`);
const loader = matching(LOADER, `not a loader: ${LOADER_WORDS.join(', ')}, or a file of the loader set, such as ipxe.efi`)
  .refine((value) => value !== UKI_FILE, `${UKI_FILE} is what a node's own UKI is called: write ${UKI_LOADER} for that, or give the file of the loader set another name`)
  .optional();

const loaders = text.refine(isLoaderSet, NO_LOADER_SET).meta({ pattern: LOADER_SET.source }).optional();

/** iPXE reads the path as a word of its script. */
export const exit = matching(/^(exit|sanboot|[\\/]?[Ee][Ff][Ii]([\\/][A-Za-z0-9_][A-Za-z0-9._-]*)+\.efi)$/, 'must be exit, sanboot, or an .efi file of the disk, such as EFI/debian/shimx64.efi');

const node = z.strictObject({
  macs: z.array(mac).min(1, 'needs at least one MAC').describe('every card the machine may boot from'),
  ip: z.string().refine((value) => parseIp4(value) !== undefined, 'not an IPv4 address, such as 10.77.0.11').meta({ format: 'ipv4' }).optional().describe('its reserved address; without one it gets one of the pool'),
  labels,
  vars: vars.describe('what its post-boot scripts are told, over the profile\'s vars'),
  ssh: sshSchema.describe("who else may log in to it, beside the profile's: { keys: [..] }"),
  config: configSchema.describe("text files for its /config, over the profile's"),
  dhcpOptions: optionsSchema.nullish().describe("DHCP options for this node, over the profile's and its subnet's: a value, a list, or { type, value, always }"),
  loader: loader.describe("what its firmware fetches first, in place of the profile's"),
  loaders: loaders.describe("the loader set that it is from, in place of the profile's"),
  exit: exit.optional().describe('how it leaves the loader to boot from its disk: exit (default, unless a quirk says otherwise), sanboot, or an .efi file of the disk, such as EFI/debian/shimx64.efi'),
  next: z.enum(NEXTS).optional().describe('what it does when it starts next, until rackseed node next says otherwise: netboot (default), boot-once, local'),
});

export const profileSchema = z.strictObject({
  image: matching(IMAGE, 'not an image: name, name:tag or name@sha256:<64 hex digits>').optional().describe('what to boot: name, name:tag or name@sha256:<digest>'),
  boot: z.literal('local').optional().describe('local: an address, but boot from disk; takes the place of image'),
  cmdline: z.array(cmdlineEntry).nullish().describe('kernel parameters, one an entry'),
  root: rootSchema.nullish().describe('where the root keeps what is written to it'),
  postBoot: z
    .strictObject({
      repo: z.string().regex(/^[a-z0-9][a-z0-9._-]*$/, 'not a repository name').describe('post-boot (the shipped one) or a key of repos in rackseed.yaml'),
      ref: matching(/^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]*$/, 'not a branch, tag or commit').describe('branch, tag or commit; pinned when the profiles are loaded'),
      steps: matching(/^[A-Za-z0-9_][A-Za-z0-9._-]*(\/[A-Za-z0-9_][A-Za-z0-9._-]*)*$/, 'not a directory inside the repository').describe('directory of the steps'),
    })
    .nullish(),
  artifacts: z
    .record(z.string().regex(/^[a-z0-9][a-z0-9._-]*$/, 'not an artifact name'), matching(/^[A-Za-z0-9][A-Za-z0-9._+-]*$/, 'not a version'))
    .nullish()
    .describe('name: version of each file that nodes need beside the image'),
  vars: vars.describe('what the post-boot scripts of every node of this profile are told'),
  ssh: sshSchema.describe('who may log in to every node of this profile: { keys: [..] }'),
  config: configSchema.describe('text files for /config of every node of this profile, by their path below it; what is under etc/ is copied over /etc'),
  shell: flag.optional().describe('true: when the initrd stage fails, it opens a shell on the console'),
  dhcpOptions: optionsSchema.nullish().describe("DHCP options for every node of this profile, over its subnet's: a value, a list, or { type, value, always }"),
  loader: loader.describe('what firmware fetches first: auto (by firmware), undionly, snponly, ipxe, shim (Debian\'s signed shim and GRUB: no iPXE), uki (what rackseed image uki made: no iPXE), or a file of the loader set'),
  loaders: loaders.describe('the loader set that it is from: default, a key of loaders.sets in rackseed.yaml, or one of rackseed loader add'),
  nodes: z.record(nodeName, node).nullish().describe('the machines that boot this profile'),
});

export type ProfileSpec = z.output<typeof profileSchema>;

/** In the design, but nothing reads them yet: refused by name instead of being ignored. */
export const NOT_YET: Readonly<Record<string, string>> = {
  match: 'name each machine under nodes until then',
  default: 'name each machine under nodes until then',
};

/** Splits `name`, `name:tag`, `name@sha256:<digest>`; undefined when it is none of them. */
export function parseImage(value: string): { readonly name: string; readonly ref?: { readonly tag?: string; readonly digest?: Digest } } | undefined {
  const [, name, tag, digest] = IMAGE.exec(value) ?? [];
  if (!name) return undefined;
  if (tag) return { name, ref: { tag } };
  return digest && isDigest(digest) ? { name, ref: { digest } } : { name };
}
