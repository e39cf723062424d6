// What the schema of image.yaml cannot say: names that must differ, files that must exist, paths that must fit together.
import { lstatSync, statSync } from 'node:fs';
import { resolve, sep } from 'node:path';
import type { Path } from '../config/faults.ts';
import type { Fault } from '../errors.ts';
import { faultAt, foreignUnits, type Layer } from './spec-merge.ts';
import { NOT_A_UNIT, type ImageSpec, type LayerSpec } from './spec-schema.ts';

/** Faults of one image.yaml, whatever it inherits. */
export function layerFaults({ yaml, dir, spec }: Layer): Fault[] {
  const faults: [Path, string][] = [];
  const once = (at: Path, what: string, values: readonly (string | number)[], key?: string): void => {
    for (const [index, value] of values.entries()) {
      if (values.indexOf(value) < index) faults.push([[...at, index, ...(key ? [key] : [])], `${what} ${value} stands here twice`]);
    }
  };
  once(['packages'], 'package', spec.packages);
  once(['remove'], 'package', spec.remove);
  once(['files'], 'path', spec.files.map((entry) => entry.path), 'path');
  once(['users'], 'user', spec.users.map((user) => user.name), 'name');
  once(['users'], 'uid', spec.users.map((user) => user.uid), 'uid');
  once(['onboot'], 'step', spec.onboot.map((step) => step.name), 'name');
  once(['arch'], 'processor', spec.arch ?? []);
  for (const [index, name] of spec.remove.entries()) {
    if (spec.packages.includes(name)) faults.push([['remove', index], `${name} stands under packages too`]);
  }
  faults.push(...sourceFaults(spec, dir), ...baseFaults(spec, dir), ...serviceFaults(spec));
  return faults.map(([path, message]) => ({ file: yaml.file, ...yaml.place(path), message }));
}

function sourceFaults({ files, onboot, services }: LayerSpec, dir: string): [Path, string][] {
  const lists: readonly (readonly [string, readonly unknown[]])[] = [['files', files], ['onboot', onboot], ['services', Array.isArray(services) ? services : []]];
  return lists.flatMap(([list, entries]) =>
    entries.flatMap((entry, index): [Path, string][] => {
      const source = (entry as { source?: string }).source;
      if (source === undefined) return [];
      const from = resolve(dir, source);
      if (!from.startsWith(resolve(dir) + sep)) return [[[list, index, 'source'], `${source} is outside of the image's directory`]];
      return lstatSync(from, { throwIfNoEntry: false })?.isFile() ? [] : [[[list, index, 'source'], `${from}: no such regular file`]];
    }),
  );
}

function baseFaults({ base }: LayerSpec, dir: string): [Path, string][] {
  const faults: [Path, string][] = [];
  const there = (path: string): ReturnType<typeof statSync> => statSync(resolve(dir, path), { throwIfNoEntry: false });
  if (base?.oci !== undefined && !there(base.oci)) faults.push([['base', 'oci'], `${resolve(dir, base.oci)}: no such file or directory`]);
  if (base?.tree !== undefined && !there(base.tree)?.isDirectory()) faults.push([['base', 'tree'], `${resolve(dir, base.tree)}: no such directory`]);
  // A layer that names no kind may still change these of the one that it inherits.
  const kind = base && (['oci', 'tree', 'alpine'] as const).find((name) => base[name] !== undefined);
  if (kind && base.components) faults.push([['base', 'components'], `has no meaning with ${kind}`]);
  if (kind && kind !== 'alpine' && base.mirror) faults.push([['base', 'mirror'], `has no meaning with ${kind}`]);
  return faults;
}

function serviceFaults({ services }: LayerSpec): [Path, string][] {
  const faults: [Path, string][] = [];
  if (Array.isArray(services)) {
    const names = services.map((entry) => (typeof entry === 'string' ? entry : entry.name));
    for (const [index, name] of names.entries()) if (names.indexOf(name) < index) faults.push([['services', index], `unit ${name} stands here twice`]);
    return faults;
  }
  for (const kind of ['disable', 'mask'] as const) {
    for (const [index, name] of services[kind].entries()) if (services.enable.includes(name)) faults.push([['services', kind, index], `${name} stands under enable too`]);
  }
  return faults;
}

/** Faults of all layers together. */
export function mergedFaults(spec: ImageSpec, layers: readonly Layer[]): Fault[] {
  return [...uidFaults(spec, layers), ...unitFaults(spec, layers), ...layoutFaults(spec, layers)];
}

function uidFaults({ users }: ImageSpec, layers: readonly Layer[]): Fault[] {
  return users.flatMap((user, index) => {
    const other = users.slice(0, index).find(({ uid }) => uid === user.uid);
    // Two of one file have been told already.
    if (!other || layers.some(({ spec }) => [user, other].every(({ name, uid }) => spec.users.some((one) => one.name === name && one.uid === uid)))) return [];
    return [faultAt(layers, (spec) => at(spec.users.findIndex(({ name, uid }) => name === user.name && uid === user.uid), (found) => ['users', found, 'uid']), `uid ${user.uid} is that of ${other.name}`)];
  });
}

function unitFaults({ base, onboot }: ImageSpec, layers: readonly Layer[]): Fault[] {
  const faults = layers.flatMap(({ yaml, spec }) =>
    foreignUnits(base, spec).map(([path, name]): Fault => ({
      file: yaml.file,
      ...yaml.place(path),
      message: `${path.join('.')}: ${'debian' in base ? NOT_A_UNIT : `${name} is a unit of systemd, and Alpine has OpenRC: a name without type, such as sshd`}`,
    })),
  );
  if ('alpine' in base && onboot.length > 0) faults.push(faultAt(layers, (spec) => (spec.onboot.length > 0 ? ['onboot'] : undefined), 'onboot: these steps are units of systemd, and Alpine has OpenRC', 'write services for /etc/init.d, in the runlevel boot'));
  return faults;
}

/** A mount over a mount: which one is seen would depend on their order. */
function layoutFaults({ layout }: ImageSpec, layers: readonly Layer[]): Fault[] {
  const faults: Fault[] = [];
  const add = (list: 'readonly' | 'persist', path: string, message: string): void => {
    faults.push(faultAt(layers, ({ layout }) => at(layout[list]?.indexOf(path) ?? -1, (index) => ['layout', list, index]), `layout.${list}: ${message}`));
  };
  const within = (path: string, above: string): boolean => path.startsWith(`${above}/`);
  for (const list of ['readonly', 'persist'] as const) {
    for (const [index, path] of layout[list].entries()) {
      if (layout[list].indexOf(path) < index) add(list, path, `${path} stands here twice`);
      const above = layout[list].find((other) => within(path, other));
      if (above) add(list, path, `${path} is in ${above}, which is there already`);
    }
  }
  for (const path of layout.persist) {
    if (path === '/etc' || within(path, '/etc')) add('persist', path, '/etc is new at each boot: what configures a machine comes from the daemon, or lies in /config');
    if (path === '/usr') add('persist', path, "/usr is the image's own: programs of an older image would stay");
    if (layout.readonly.includes(path) && path !== '/usr') add('persist', path, `${path} is read-only too`);
    const inside = layout.readonly.find((other) => within(other, path));
    if (inside) add('readonly', inside, `${inside} is in ${path}, which persists`);
  }
  const { config } = layout;
  const clash = [...layout.readonly, ...layout.persist].find((path) => path === config || within(config, path) || within(path, config));
  if (clash !== undefined || config === '/etc' || within('/etc', config) || within(config, '/etc')) {
    faults.push(faultAt(layers, (spec) => (spec.layout.config === config ? ['layout', 'config'] : undefined), `layout.config: ${config} and ${clash ?? '/etc'} are in each other's way`, 'a directory of its own, such as /config'));
  }
  return faults;
}

function at(index: number, path: (index: number) => Path): Path | undefined {
  return index < 0 ? undefined : path(index);
}
