// image.yaml: what an image is made of. Read and checked as a whole, with all that it inherits, before anything is built.
import { existsSync, readFileSync, readdirSync, realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { readYaml } from '../config/document.ts';
import { knownKeys, nearest, plainWords, zodFaults } from '../config/faults.ts';
import { AppError, FaultsError, type Fault } from '../errors.ts';
import { layerFaults, mergedFaults } from './spec-check.ts';
import { faultAt, merge, type Layer } from './spec-merge.ts';
import { ARCH_WORD, imageSchema, type ImageSpec, type LayerSpec } from './spec-schema.ts';

export { forArch, imageSchema, type ArchSpec, type BuiltArch, type ImageBase, type ImageSpec } from './spec-schema.ts';

/** Directories of images, searched in order. The last one is rackseed's own: it has `common/`, which every image carries. */
export type ImagesDirs = string | readonly string[];

const IMAGE_NAME = /^[a-z0-9][a-z0-9._-]*$/;

/** Image names are directory names; anything else is a mistake or an attack. */
export function isImageName(name: string): boolean {
  return IMAGE_NAME.test(name);
}

/** Each directory once, those that are not there left out: an operator's own may be the shipped one. */
function searched(dirs: ImagesDirs): string[] {
  const there = [dirs].flat().filter((dir) => existsSync(dir));
  const real = there.map((dir) => realpathSync(dir));
  // The shipped one stays last.
  return there.filter((_dir, index) => real.lastIndexOf(real[index]!) === index);
}

/** The directory of what every image carries. */
export function commonDir(dirs: ImagesDirs): string {
  return join([dirs].flat().at(-1)!, 'common');
}

/** The images that can be built: folders with an image.yaml. `common` is none. */
export function imageNames(dirs: ImagesDirs): string[] {
  const names = searched(dirs).flatMap((dir) => readdirSync(dir).filter((name) => isImageName(name) && existsSync(join(dir, name, 'image.yaml'))));
  return [...new Set(names)].sort();
}

/** What a checked image.yaml says, and where it says it. */
export interface ImageSource {
  readonly spec: ImageSpec;
  /** The directory of its own image.yaml. */
  readonly dir: string;
  /** A fault at the last place where `list` names `value`, in whichever file that is. */
  faultOf(list: 'packages' | 'remove', value: string, message: string, hint?: string): Fault;
  /** The same for the package of the kernel. */
  faultOfKernel(message: string, hint?: string): Fault;
}

/** Reads `<dir>/<name>/image.yaml` and what it inherits. IMAGE_UNKNOWN, or IMAGE_SPEC_INVALID (a FaultsError with every fault of every file), as AppError. */
export function readImage(dirs: ImagesDirs, name: string): ImageSource {
  const file = find(searched(dirs), name);
  if (file === undefined) {
    const [known, near] = [imageNames(dirs), nearest(name, imageNames(dirs))];
    throw new AppError('IMAGE_UNKNOWN', `${join([dirs].flat()[0]!, name, 'image.yaml')}: no such file`, near ? `did you mean ${near}?` : `there ${known.length === 1 ? 'is' : 'are'}: ${known.join(', ') || 'none'}`);
  }
  return compile(readFileSync(file, 'utf8'), file, dirname(file), dirs);
}

/** As readImage, without the places. */
export function readImageSpec(dirs: ImagesDirs, name: string): ImageSpec {
  return readImage(dirs, name).spec;
}

/** As readImageSpec, for text that is already there; `dir` is where `source:` files are looked for, and `dirs` what `from` names. */
export function parseImageSpec(text: string, file: string, dir: string, dirs: ImagesDirs = []): ImageSpec {
  return compile(text, file, dir, dirs).spec;
}

function find(dirs: readonly string[], name: string): string | undefined {
  return isImageName(name) ? dirs.map((dir) => join(dir, name, 'image.yaml')).find((path) => existsSync(path)) : undefined;
}

function compile(text: string, file: string, dir: string, dirs: ImagesDirs): ImageSource {
  const faults: Fault[] = [];
  const layers = chain(text, file, dir, searched(dirs), faults);
  for (const layer of layers) faults.push(...layerFaults(layer));
  // A layer that could not be read says nothing, so what is missing or clashes is not known.
  const { spec, faults: missing } = faults.length > 0 ? { faults: [] } : merge(layers);
  faults.push(...missing, ...(spec ? mergedFaults(spec, layers) : []));
  if (!spec || faults.length > 0) throw new FaultsError('IMAGE_SPEC_INVALID', faults);
  // The name as it is for one of the processors.
  const says = (written: string, name: string): boolean => spec.arch.some((arch) => written.replaceAll(ARCH_WORD, arch) === name);
  return {
    spec,
    dir,
    faultOf: (list, value, message, hint) => faultAt(layers, (layer) => (layer[list].some((name) => says(name, value)) ? [list, layer[list].findIndex((name) => says(name, value))] : undefined), message, hint),
    faultOfKernel: (message, hint) => faultAt(layers, ({ kernel }) => (kernel.package === undefined ? undefined : ['kernel', 'package']), message, hint),
  };
}

/** The files from the one that inherits nothing to the image's own; those that cannot be read are left out, with their faults. */
function chain(text: string, file: string, dir: string, dirs: readonly string[], faults: Fault[]): Layer[] {
  const layers: Layer[] = [];
  const seen = [file];
  for (let at: { text: string; file: string; dir: string } | undefined = { text, file, dir }; at; ) {
    const yaml = readYaml(at.text, at.file, { scalars: 'typed' });
    faults.push(...yaml.faults);
    const parsed = yaml.value === undefined ? undefined : imageSchema.safeParse(yaml.value ?? {}, { error: plainWords });
    if (parsed && !parsed.success) faults.push(...zodFaults(parsed.error, yaml.document, yaml.lines, at.file, (path) => knownKeys(imageSchema, path)));
    const spec: LayerSpec | undefined = parsed?.data;
    if (!spec) break;
    layers.unshift({ yaml, dir: at.dir, spec });
    if (spec.from === undefined) break;
    const from = parent(spec.from, at.dir, dirs);
    const wrong = (message: string, hint?: string): number => faults.push({ file: yaml.file, ...yaml.place(['from']), message, ...(hint === undefined ? {} : { hint }) });
    if (from === undefined) {
      const near = nearest(spec.from, imageNames(dirs));
      wrong(`from: there is no image ${spec.from}`, near ? `did you mean ${near}?` : `there are: ${imageNames(dirs).join(', ') || 'none'}`);
      break;
    }
    if (seen.includes(from)) {
      wrong(`from: ${[...seen.slice(seen.indexOf(from)), from].map((path) => basename(dirname(path))).join(' inherits ')}`, 'one of them must stand on its own');
      break;
    }
    seen.push(from);
    at = { text: readFileSync(from, 'utf8'), file: from, dir: dirname(from) };
  }
  return layers;
}

/** An own image may have the name of the shipped one that it adds to; a shipped one inherits what rackseed ships, whatever else there is. */
function parent(name: string, dir: string, dirs: readonly string[]): string | undefined {
  const own = dirs.indexOf(dirname(dir));
  const after = own < 0 ? dirs : dirs.slice(own);
  return (basename(dir) === name ? find(after.slice(1), name) : undefined) ?? find(after, name);
}
