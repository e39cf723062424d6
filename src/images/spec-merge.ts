// `from`: several image.yaml, one inheriting the next, as one spec. The last word has the one that inherits.
import { resolve } from 'node:path';
import type { YamlFile } from '../config/document.ts';
import type { Path } from '../config/faults.ts';
import type { Fault } from '../errors.ts';
import { BASES, isSystemdUnit, type ImageBase, type ImageSpec, type LayerSpec, type ShippedUnit } from './spec-schema.ts';

/** One image.yaml of the chain. */
export interface Layer {
  readonly yaml: YamlFile;
  /** The directory that its `source`s are in. */
  readonly dir: string;
  readonly spec: LayerSpec;
}

export type LayerPath = (spec: LayerSpec) => Path | undefined;

/** The place of something in the last layer that has it, or the start of the image's own file. */
export function faultAt(layers: readonly Layer[], find: LayerPath, message: string, hint?: string): Fault {
  for (const { yaml, spec } of [...layers].reverse()) {
    const path = find(spec);
    if (path) return { file: yaml.file, ...yaml.place(path), message, ...(hint === undefined ? {} : { hint }) };
  }
  return { file: layers.at(-1)!.yaml.file, line: 1, column: 1, message, ...(hint === undefined ? {} : { hint }) };
}

const MIRRORS = { debian: 'http://deb.debian.org', alpine: 'https://dl-cdn.alpinelinux.org/alpine' } as const;
const LAYOUT = { readonly: ['/usr'], persist: ['/var', '/home', '/opt', '/usr/local'], config: '/config' } as const;

/**
 * `layers`: the one that inherits nothing first, the image's own last. Lists append, except `arch` and the lists of `base` and `layout`, which are one word
 * each; what has a path or name replaces what had it before; everything else key by key. What is missing in all of them is a fault.
 */
export function merge(layers: readonly Layer[]): { readonly spec?: ImageSpec; readonly faults: readonly Fault[] } {
  const specs = layers.map(({ dir, spec }) => absolute(spec, dir));
  const all = <T>(of: (spec: LayerSpec) => readonly T[]): T[] => [...new Set(specs.flatMap(of))];
  const last = <T>(of: (spec: LayerSpec) => T | undefined): T | undefined => specs.map(of).findLast((value) => value !== undefined);
  const kernelPackage = last((spec) => spec.kernel.package);
  const base = baseOf(specs);
  if (!base) return { faults: [faultAt(layers, (spec) => spec.base && ['base'], `base: needs exactly one of ${BASES.join(', ')}`, 'such as base: { debian: trixie }')] };
  if ('debian' in base && kernelPackage === undefined) return { faults: [faultAt(layers, () => ['kernel', 'package'], 'kernel.package: missing', 'such as linux-image-cloud-$arch')] };
  const spec: ImageSpec = {
    base,
    arch: last((spec) => spec.arch) ?? ['amd64'],
    kernel: {
      ...(kernelPackage === undefined ? {} : { package: kernelPackage }),
      modules: all((spec) => spec.kernel.modules),
      optionalModules: all((spec) => spec.kernel.optionalModules),
      firmware: all((spec) => spec.kernel.firmware),
      cmdline: specs.flatMap((spec) => spec.kernel.cmdline),
    },
    ...packagesOf(specs),
    exclude: all((spec) => spec.exclude),
    files: named(specs.map((spec) => spec.files), (file) => file.path),
    users: named(specs.map((spec) => spec.users), (user) => user.name),
    onboot: named(specs.map((spec) => spec.onboot), (step) => step.name),
    services: servicesOf(specs),
    layout: {
      readonly: last((spec) => spec.layout.readonly) ?? LAYOUT.readonly,
      persist: last((spec) => spec.layout.persist) ?? LAYOUT.persist,
      config: last((spec) => spec.layout.config) ?? LAYOUT.config,
    },
  };
  return { spec, faults: [] };
}

/** Another kind of base in a later layer takes the place of the whole; the same kind is merged key by key. */
function baseOf(specs: readonly LayerSpec[]): ImageBase | undefined {
  let merged: NonNullable<LayerSpec['base']> = {};
  for (const { base = {} } of specs) merged = BASES.some((kind) => base[kind] !== undefined && merged[kind] === undefined) ? base : { ...merged, ...base };
  const { debian, oci, tree, alpine, mirror, components } = merged;
  if (debian !== undefined) return { debian, mirror: mirror ?? MIRRORS.debian, components: components ?? ['main'] };
  if (alpine !== undefined) return { alpine, mirror: mirror ?? MIRRORS.alpine };
  if (oci !== undefined) return { oci };
  return tree === undefined ? undefined : { tree };
}

/** What a later layer removes is not installed for an earlier one, and what it installs is not removed. */
function packagesOf(specs: readonly LayerSpec[]): Pick<ImageSpec, 'packages' | 'remove'> {
  const [packages, remove] = [new Set<string>(), new Set<string>()];
  for (const spec of specs) {
    for (const name of spec.remove) (packages.delete(name), remove.add(name));
    for (const name of spec.packages) (remove.delete(name), packages.add(name));
  }
  return { packages: [...packages], remove: [...remove] };
}

/** In the order in which names were first said. */
function named<T>(lists: readonly (readonly T[])[], nameOf: (entry: T) => string): T[] {
  return [...new Map(lists.flat().map((entry) => [nameOf(entry), entry])).values()];
}

/** Both forms of `services` as one: what is said of a unit last holds; a shipped unit stays shipped. */
function servicesOf(specs: readonly LayerSpec[]): ImageSpec['services'] {
  const state = new Map<string, 'enable' | 'disable' | 'mask' | undefined>();
  const units = new Map<string, ShippedUnit>();
  const say = (name: string, what: 'enable' | 'disable' | 'mask' | undefined): void => {
    state.delete(name);
    state.set(name, what);
  };
  for (const { services } of specs) {
    if (!Array.isArray(services)) {
      for (const what of ['enable', 'disable', 'mask'] as const) for (const name of services[what]) say(name, what);
      continue;
    }
    for (const entry of services) {
      const unit = typeof entry === 'string' ? { name: entry, enable: true } : entry;
      const { name, contents, source, enable } = unit as typeof unit & ShippedUnit;
      // Shipped and not enabled is for units that another one wants; without text of its own it is one to disable.
      const ships = contents !== undefined || source !== undefined;
      if (ships) units.set(name, { name, ...(contents === undefined ? {} : { contents }), ...(source === undefined ? {} : { source }) });
      say(name, enable ? 'enable' : ships ? undefined : 'disable');
    }
  }
  const that = (what: string): string[] => [...state].flatMap(([name, said]) => (said === what ? [name] : []));
  return { enable: that('enable'), disable: that('disable'), mask: that('mask'), units: [...units.values()] };
}

/** A spec says paths beside its own file; merged, they are of several. */
function absolute(spec: LayerSpec, dir: string): LayerSpec {
  const entry = <T extends object>(value: T): T => ('source' in value && typeof value.source === 'string' ? { ...value, source: resolve(dir, value.source) } : value);
  const { base, files, onboot, services } = spec;
  return {
    ...spec,
    ...(base ? { base: { ...base, ...(base.oci === undefined ? {} : { oci: resolve(dir, base.oci) }), ...(base.tree === undefined ? {} : { tree: resolve(dir, base.tree) }) } } : {}),
    files: files.map(entry),
    onboot: onboot.map(entry),
    services: Array.isArray(services) ? services.map((one) => (typeof one === 'string' ? one : entry(one))) : services,
  };
}

/** Every name of a unit in a layer, with its path. */
export function unitsIn({ services }: LayerSpec): [Path, string][] {
  if (Array.isArray(services)) return services.map((entry, index): [Path, string] => (typeof entry === 'string' ? [['services', index], entry] : [['services', index, 'name'], entry.name]));
  return (['enable', 'disable', 'mask'] as const).flatMap((what) => services[what].map((name, index): [Path, string] => [['services', what, index], name]));
}

/** Names of units that this base's init cannot know. */
export function foreignUnits(base: ImageBase, layer: LayerSpec): [Path, string][] {
  if ('debian' in base) return unitsIn(layer).filter(([, name]) => !isSystemdUnit(name));
  return 'alpine' in base ? unitsIn(layer).filter(([, name]) => isSystemdUnit(name)) : [];
}
