// The schema of image.yaml: what may stand in one file of it. The one source of check, the editor's schema and docs/IMAGES.md.
import { normalize } from 'node:path';
import { z } from 'zod';
import { cmdlineEntry } from '../config/profile-schema.ts';

/** Stands for the processor in names of packages, so that one image.yaml serves several: linux-image-cloud-$arch. */
export const ARCH_WORD = '$arch';

const packageName = z.string().regex(/^[a-z0-9]([a-z0-9+.-]|\$arch)+$/, 'not a package name');
const account = z.string().regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'not a user name');
const moduleName = z.string().regex(/^[A-Za-z0-9_-]+$/, 'a module name without path and .ko, such as virtio_net');
const UNIT = 'a unit name with its type, such as ssh.service';
/** systemd's names have a type, OpenRC's have none. Which of both may stand here, the base says. */
const unit = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9:_.@\\-]*$/, UNIT);
const TYPED = /\.(service|socket|timer|target|mount|automount|path|slice)$/;
const source = z.string().min(1);

/** Whether systemd would know this name; OpenRC's services have no type. */
export function isSystemdUnit(name: string): boolean {
  return TYPED.test(name);
}

export const NOT_A_UNIT = UNIT;

// No colon, star, or space: the path goes into dpkg.cfg and a shell line, and no file of an image needs one.
const path = z
  .string()
  .regex(/^\/[A-Za-z0-9@%+=_.,/\\-]*[A-Za-z0-9@%+=_.,\\-]$/, 'an absolute path, such as /etc/motd')
  .refine((text) => normalize(text) === text, 'write it without //, /./ and /../')
  .refine((text) => !/^\/(proc|sys|dev|run)(\/|$)/.test(text), 'is empty in every image: the kernel or systemd mounts over it');

const file = z
  .strictObject({
    path,
    contents: z.string().optional().describe('the text itself'),
    source: source.optional().describe('a file beside image.yaml'),
    symlink: z.string().min(1).optional().describe('what the link points to'),
    // `mode: 0755` would be the number 755 in YAML 1.2, which is 01363: hence only text.
    mode: z.string('write the mode in quotes: "0644"').regex(/^0?[0-7]{3,4}$/, 'an octal mode, such as "0644"').default('0644'),
    owner: z.string().regex(/^[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?$/, 'a user or user:group').default('root:root'),
  })
  .refine((entry) => [entry.contents, entry.source, entry.symlink].filter((from) => from !== undefined).length === 1, 'needs exactly one of contents, source and symlink');

/** Which system the image is made from; exactly one of these. */
export const BASES = ['debian', 'oci', 'tree', 'alpine'] as const;

const base = z
  .strictObject({
    debian: z.enum(['trixie']).optional().describe('the suite; its updates and security updates are used too'),
    oci: source.optional().describe('an archive of docker save, or an OCI layout as directory or archive, beside image.yaml'),
    tree: source.optional().describe('a directory that is a root, beside image.yaml'),
    alpine: z.string('the release in quotes, such as "v3.22"').regex(/^(v\d+\.\d+|edge)$/, 'a release, such as v3.22').optional().describe('the release; its minirootfs, and packages by apk'),
    mirror: z.url({ protocol: /^https?$/, error: 'an http or https URL' }).optional().describe('debian: has /debian and /debian-security; alpine: has /v3.22; default: http://deb.debian.org, https://dl-cdn.alpinelinux.org/alpine'),
    components: z.array(z.enum(['main', 'contrib', 'non-free', 'non-free-firmware'])).min(1).optional().describe('of Debian; default: [main]. Firmware of real hardware is in non-free-firmware'),
  })
  .refine((entry) => BASES.filter((kind) => entry[kind] !== undefined).length <= 1, `needs exactly one of ${BASES.join(', ')}`);

const unitsList = z.array(unit).default([]);

const service = z.union([
  unit,
  z
    .strictObject({
      name: unit,
      contents: z.string().optional().describe('the unit itself'),
      source: source.optional().describe('the unit, a file beside image.yaml'),
      enable: z.boolean().default(true),
    })
    .refine((entry) => entry.contents === undefined || entry.source === undefined, 'needs contents or source, not both'),
]);

const onboot = z
  .strictObject({
    name: z.string().regex(/^[a-z0-9][a-z0-9-]{0,40}$/, 'a name of small letters, digits and inner dashes'),
    run: z.string().min(1).optional().describe('a shell script (sh -eu), or any script that starts with #!'),
    source: source.optional().describe('a program or script, a file beside image.yaml'),
  })
  .refine((entry) => (entry.run === undefined) !== (entry.source === undefined), 'needs exactly one of run and source');

const arch = z.enum(['amd64', 'arm64']);

/** What one image.yaml may say; what it needs to say at least depends on what it inherits (spec-merge.ts). */
export const imageSchema = z.strictObject({
  from: z.string().regex(/^[a-z0-9][a-z0-9._-]*$/, 'not the name of an image').optional().describe('another image whose image.yaml this one adds to'),
  base: base.optional().describe('what the image is made from'),
  arch: z.union([z.array(arch).min(1, 'needs at least one'), arch.transform((one) => [one])]).optional().describe("the processors of its nodes, default: amd64; one that is not this machine's is built under QEMU's user emulation. The first gets the tag latest, others latest-<arch>"),
  kernel: z
    .strictObject({
      package: packageName.optional().describe('linux-image-amd64 (-arm64) has drivers for real hardware, linux-image-cloud-amd64 (-arm64) is small; $arch stands for the processor'),
      modules: z.array(moduleName).default([]).describe('the initrd stage has these and what they depend on; one that the kernel lacks is an error'),
      optionalModules: z.array(moduleName).default([]).describe('the same, as far as the kernel package has them'),
      firmware: z
        .array(z.string().regex(/^[A-Za-z0-9_.*?[\]-][A-Za-z0-9_.*?[\]/+-]*$/, 'a path below /usr/lib/firmware, such as bnx2/*.fw').refine((text) => !text.split('/').includes('..'), 'a path below /usr/lib/firmware, without ..'))
        .default([])
        .describe("files below /usr/lib/firmware that the initrd stage's drivers need, * and ? stand for anything within a name; one that matches nothing is an error"),
      cmdline: z.array(cmdlineEntry).default([]).describe("the image's own kernel parameters, one an entry; a profile's come behind them"),
    })
    .prefault({}),
  packages: z.array(packageName).default([]),
  remove: z.array(packageName).default([]).describe('packages that are taken away at the end; those that depend on them stay'),
  exclude: z
    .array(z.string().regex(/^\/[A-Za-z0-9@%+=_.,/*?[\]-]+$/, 'an absolute path, * matches slashes too'))
    .default([])
    .describe('paths that no package shall install (dpkg path-exclude); copyright files are always kept'),
  files: z.array(file).default([]),
  users: z
    .array(z.strictObject({ name: account, uid: z.number().int().min(1).max(59999), gid: z.number().int().min(1).max(59999).optional(), home: path.optional(), shell: path.optional() }))
    .default([])
    .describe('locked accounts whose ids are the same in every build'),
  onboot: z.array(onboot).default([]).describe('run at each boot, in this order, before services; each must succeed, or the boot has failed'),
  services: z
    .union([z.strictObject({ enable: unitsList, disable: unitsList, mask: unitsList }), z.array(service)])
    .default([])
    .describe('units of the packages to enable, disable and mask; or a list of units to enable, and to ship'),
  layout: z
    .strictObject({
      readonly: z.array(path).optional().describe('default: [/usr]'),
      persist: z.array(path).optional().describe('on the disk that a profile names, otherwise in RAM; default: [/var, /home, /opt, /usr/local]'),
      config: path.optional().describe('where the configuration of the machine is mounted; default: /config'),
    })
    .prefault({}),
});

/** One image.yaml as it stands, with defaults for what it leaves out. */
export type LayerSpec = z.output<typeof imageSchema>;
export type BuiltArch = z.infer<typeof arch>;
export type ImageFile = z.infer<typeof file>;
export type ImageUser = LayerSpec['users'][number];
export type OnBoot = z.infer<typeof onboot>;

export type ImageBase =
  | { readonly debian: string; readonly mirror: string; readonly components: readonly string[] }
  | { readonly oci: string }
  | { readonly tree: string }
  | { readonly alpine: string; readonly mirror: string };

/** A unit that the image ships. */
export interface ShippedUnit {
  readonly name: string;
  readonly contents?: string;
  readonly source?: string;
}

/** What image.yaml says with all that it inherits; every `source`, and the paths in `base`, are absolute. */
export interface ImageSpec {
  readonly base: ImageBase;
  readonly arch: readonly BuiltArch[];
  readonly kernel: {
    readonly package?: string;
    readonly modules: readonly string[];
    readonly optionalModules: readonly string[];
    readonly firmware: readonly string[];
    readonly cmdline: readonly string[];
  };
  readonly packages: readonly string[];
  readonly remove: readonly string[];
  readonly exclude: readonly string[];
  readonly files: readonly ImageFile[];
  readonly users: readonly ImageUser[];
  readonly onboot: readonly OnBoot[];
  readonly services: { readonly enable: readonly string[]; readonly disable: readonly string[]; readonly mask: readonly string[]; readonly units: readonly ShippedUnit[] };
  readonly layout: { readonly readonly: readonly string[]; readonly persist: readonly string[]; readonly config: string };
}

/** The same for one processor: what a build is of. */
export interface ArchSpec extends Omit<ImageSpec, 'arch'> {
  readonly arch: BuiltArch;
}

/** The spec as it is for one of its processors; the first without `arch`. */
export function forArch(spec: ImageSpec, arch: BuiltArch = spec.arch[0]!): ArchSpec {
  const name = (text: string): string => text.replaceAll(ARCH_WORD, arch);
  const kernel = { ...spec.kernel, ...(spec.kernel.package === undefined ? {} : { package: name(spec.kernel.package) }) };
  return { ...spec, arch, kernel, packages: spec.packages.map(name), remove: spec.remove.map(name) };
}
