// image.yaml: what an image is made of. Read and checked as a whole before anything is built.
import { existsSync, lstatSync, readFileSync, readdirSync } from 'node:fs';
import { join, normalize, resolve, sep } from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';
import { knownKeys, nearest, placeOf, yamlFaults, zodFaults, type Path } from '../config/faults.ts';
import { AppError, FaultsError, type Fault } from '../errors.ts';

const packageName = z.string().regex(/^[a-z0-9][a-z0-9+.-]+$/, 'not a Debian package name');
const account = z.string().regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'not a user name');
const moduleName = z.string().regex(/^[A-Za-z0-9_-]+$/, 'a module name without path and .ko, such as virtio_net');
const unit = z.string().regex(/^[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|target|mount|path|slice)$/, 'a unit name with its type, such as ssh.service');
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
    source: z.string().min(1).optional().describe('a file beside image.yaml'),
    symlink: z.string().min(1).optional().describe('what the link points to'),
    // `mode: 0755` would be the number 755 in YAML 1.2, which is 01363: hence only text.
    mode: z.string('write the mode in quotes: "0644"').regex(/^0?[0-7]{3,4}$/, 'an octal mode, such as "0644"').default('0644'),
    owner: z.string().regex(/^[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?$/, 'a user or user:group').default('root:root'),
  })
  .refine((entry) => [entry.contents, entry.source, entry.symlink].filter((from) => from !== undefined).length === 1, 'needs exactly one of contents, source and symlink');

/** The one source of what may stand in image.yaml: check, editor schema and docs come from it. */
export const imageSchema = z.strictObject({
  base: z.strictObject({
    debian: z.enum(['trixie']).describe('the suite; its updates and security updates are used too'),
    mirror: z.url({ protocol: /^https?$/, error: 'an http or https URL' }).default('http://deb.debian.org').describe('has /debian and /debian-security'),
  }),
  arch: z.enum(['amd64', 'arm64']).default('amd64').describe('the processor of its nodes; one that is not this machine\'s is built under QEMU\'s user emulation'),
  kernel: z.strictObject({
    package: packageName.describe('linux-image-amd64 (-arm64) has drivers for real hardware, linux-image-cloud-amd64 (-arm64) is small'),
    modules: z.array(moduleName).default([]).describe('the initrd stage has these and what they depend on; one that the kernel lacks is an error'),
    optionalModules: z.array(moduleName).default([]).describe('the same, as far as the kernel package has them'),
  }),
  packages: z.array(packageName).default([]),
  exclude: z
    .array(z.string().regex(/^\/[A-Za-z0-9@%+=_.,/*?[\]-]+$/, 'an absolute path, * matches slashes too'))
    .default([])
    .describe('paths that no package shall install (dpkg path-exclude); copyright files are always kept'),
  files: z.array(file).default([]),
  users: z
    .array(z.strictObject({ name: account, uid: z.number().int().min(1).max(59999), gid: z.number().int().min(1).max(59999).optional(), home: path.optional(), shell: path.optional() }))
    .default([])
    .describe('locked accounts whose ids are the same in every build'),
  services: z.strictObject({ enable: z.array(unit).default([]), disable: z.array(unit).default([]), mask: z.array(unit).default([]) }).prefault({}),
});

/** What a checked image.yaml says. */
export type ImageSpec = z.infer<typeof imageSchema>;

const IMAGE_NAME = /^[a-z0-9][a-z0-9._-]*$/;

/** Image names are directory names; anything else is a mistake or an attack. */
export function isImageName(name: string): boolean {
  return IMAGE_NAME.test(name);
}

/** The images that can be built from a directory: its folders with an image.yaml. */
export function imageNames(imagesDir: string): string[] {
  if (!existsSync(imagesDir)) return [];
  return readdirSync(imagesDir).filter((name) => isImageName(name) && existsSync(join(imagesDir, name, 'image.yaml'))).sort();
}

/** Reads `<imagesDir>/<name>/image.yaml`. IMAGE_UNKNOWN, or IMAGE_SPEC_INVALID (a FaultsError with every fault), as AppError. */
export function readImageSpec(imagesDir: string, name: string): ImageSpec {
  const known = imageNames(imagesDir);
  if (!known.includes(name)) {
    const near = nearest(name, known);
    throw new AppError('IMAGE_UNKNOWN', `${join(imagesDir, name, 'image.yaml')}: no such file`, near ? `did you mean ${near}?` : `there ${known.length === 1 ? 'is' : 'are'}: ${known.join(', ') || 'none'}`);
  }
  const path = join(imagesDir, name, 'image.yaml');
  return parseImageSpec(readFileSync(path, 'utf8'), path, join(imagesDir, name));
}

/** As readImageSpec, for text that is already there; `dir` is where `source:` files are looked for. */
export function parseImageSpec(text: string, file: string, dir: string): ImageSpec {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const syntax = yamlFaults(document, file);
  if (syntax.length > 0) throw new FaultsError('IMAGE_SPEC_INVALID', syntax);
  const parsed = imageSchema.safeParse(document.toJS() ?? {});
  if (!parsed.success) throw new FaultsError('IMAGE_SPEC_INVALID', zodFaults(parsed.error, document, lines, file, (path) => knownKeys(imageSchema, path)));
  const faults = meaning(parsed.data, dir).map(([path, message]): Fault => ({ file, ...placeOf(document, lines, path), message }));
  if (faults.length > 0) throw new FaultsError('IMAGE_SPEC_INVALID', faults);
  return parsed.data;
}

/** What a schema cannot say: names that must differ, files that must exist. */
function meaning(spec: ImageSpec, dir: string): [Path, string][] {
  const faults: [Path, string][] = [];
  const once = (at: Path, what: string, values: readonly (string | number)[], key?: string) => {
    for (const [index, value] of values.entries()) {
      if (values.indexOf(value) < index) faults.push([[...at, index, ...(key ? [key] : [])], `${what} ${value} stands here twice`]);
    }
  };
  once(['packages'], 'package', spec.packages);
  once(['files'], 'path', spec.files.map((entry) => entry.path), 'path');
  once(['users'], 'user', spec.users.map((user) => user.name), 'name');
  once(['users'], 'uid', spec.users.map((user) => user.uid), 'uid');
  for (const [index, entry] of spec.files.entries()) {
    if (entry.source === undefined) continue;
    const from = resolve(dir, entry.source);
    if (!from.startsWith(resolve(dir) + sep)) faults.push([['files', index, 'source'], `${entry.source} is outside of the image's directory`]);
    else if (!lstatSync(from, { throwIfNoEntry: false })?.isFile()) faults.push([['files', index, 'source'], `${from}: no such regular file`]);
  }
  for (const kind of ['disable', 'mask'] as const) {
    for (const [index, name] of spec.services[kind].entries()) {
      if (spec.services.enable.includes(name)) faults.push([['services', kind, index], `${name} stands under enable too`]);
    }
  }
  return faults;
}
