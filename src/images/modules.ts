// Which kernel modules the initrd stage carries: the wanted ones with all that they depend on, read from depmod's own text files.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '../errors.ts';

export interface ModuleFile {
  /** As the kernel and modprobe know it: with `_`. */
  readonly name: string;
  /** Relative to /lib/modules/<version>, as the kernel package has it: `kernel/fs/overlayfs/overlay.ko.xz`. */
  readonly path: string;
  /** Names of the modules that must be there before it, in load order. */
  readonly needs: readonly string[];
}

/** Every initrd has these, as far as the kernel has them: what checks the squashfs block by block, and a faster sha256 for it where the processor has one. */
export const INTEGRITY_MODULES = ['dm_mod', 'dm_verity', 'sha256_ssse3', 'sha2_ce'];

export interface ModuleIndex {
  readonly files: ReadonlyMap<string, ModuleFile>;
  readonly builtin: ReadonlySet<string>;
  /** `softdep NAME pre: ...`, aliases resolved: not in modules.dep, yet the module misses them when it starts. ext4 mounts nothing without a crc32c. */
  readonly before: ReadonlyMap<string, readonly string[]>;
  /** Lines of modules.alias, in depmod's order. */
  readonly aliases: readonly { readonly module: string; readonly line: string }[];
}

/** Reads modules.dep, .builtin, .softdep and .alias of one kernel. */
export function readModuleIndex(dir: string): ModuleIndex {
  const read = (name: string) => (existsSync(join(dir, name)) ? readFileSync(join(dir, name), 'utf8').split('\n').filter((line) => line !== '' && !line.startsWith('#')) : []);
  const files = new Map<string, ModuleFile>();
  for (const line of read('modules.dep')) {
    const colon = line.indexOf(':');
    const path = line.slice(0, colon);
    // depmod lists the farthest dependency last.
    const needs = line.slice(colon + 1).trim().split(/\s+/).filter(Boolean).map(moduleOf).reverse();
    files.set(moduleOf(path), { name: moduleOf(path), path, needs });
  }
  const aliases = read('modules.alias').map((line) => ({ module: plain(line.split(' ').at(-1)!), line }));
  // `alias crc32c crc32c_intel`: one of several that do the same, which all come along.
  const meant = (name: string): readonly string[] => (files.has(name) ? [name] : aliases.flatMap(({ module, line }) => (plain(line.split(' ')[1] ?? '') === name ? [module] : [])));
  const before = new Map<string, readonly string[]>();
  for (const line of read('modules.softdep')) {
    const match = /^softdep\s+(\S+)\s.*?\bpre:\s*(.*?)(\s+post:.*)?$/.exec(line);
    if (match) before.set(plain(match[1]!), [...(before.get(plain(match[1]!)) ?? []), ...match[2]!.split(/\s+/).filter(Boolean).map(plain).flatMap(meant)]);
  }
  return { files, builtin: new Set(read('modules.builtin').map(moduleOf)), before, aliases };
}

/**
 * The wanted modules and their dependencies, each after what it needs. Names that are built into the kernel are left out; a required
 * name that the kernel does not know is IMAGE_BUILD_FAILED, an optional one is left out.
 */
export function selectModules(index: ModuleIndex, required: readonly string[], optional: readonly string[]): ModuleFile[] {
  const chosen = new Map<string, ModuleFile>();
  // Soft dependencies may name each other in a circle.
  const under = new Set<string>();
  const take = (name: string): boolean => {
    if (index.builtin.has(name) || chosen.has(name) || under.has(name)) return true;
    const file = index.files.get(name);
    if (!file) return false;
    under.add(name);
    for (const need of [...(index.before.get(name) ?? []), ...file.needs]) if (need !== name) take(need);
    chosen.set(name, file);
    return true;
  };
  const missing = required.map(plain).filter((name) => !take(name));
  if (missing.length > 0) {
    throw new AppError('IMAGE_BUILD_FAILED', `the kernel has no module ${missing.join(', ')}`, 'take another kernel.package in image.yaml, or move the name to kernel.optionalModules');
  }
  for (const name of optional.map(plain)) take(name);
  return [...chosen.values()];
}

/**
 * The same text files for the chosen modules alone, which are not compressed any more: busybox' modprobe reads them. It knows no soft dependencies, so they stand in
 * modules.dep with the others.
 */
export function moduleTables(index: ModuleIndex, chosen: readonly ModuleFile[]): Record<'modules.dep' | 'modules.alias' | 'modules.builtin', string> {
  const there = new Set(chosen.map(({ name }) => name));
  const lines = (text: readonly string[]) => text.map((line) => `${line}\n`).join('');
  /** Load order is that of `chosen`; where two name each other, the later one needs the earlier one. */
  const needs = new Map<string, ReadonlySet<string>>();
  for (const { name, needs: hard } of chosen) {
    const direct = [...(index.before.get(name) ?? []), ...hard].filter((need) => needs.has(need));
    needs.set(name, new Set(direct.flatMap((need) => [need, ...needs.get(need)!])));
  }
  // The farthest last, as depmod writes it.
  const dependencies = ({ name }: ModuleFile) => chosen.filter((other) => needs.get(name)!.has(other.name)).reverse();
  return {
    'modules.dep': lines(chosen.map((file) => `${plainPath(file.path)}:${dependencies(file).map((need) => ` ${plainPath(need.path)}`).join('')}`)),
    'modules.alias': lines(index.aliases.filter((alias) => there.has(alias.module)).map((alias) => alias.line)),
    'modules.builtin': lines([...index.builtin].sort().map((name) => `kernel/${name}.ko`)),
  };
}

/** `kernel/net/core/failover.ko.xz` without its compression's suffix. */
export function plainPath(path: string): string {
  return path.replace(/\.(xz|zst|gz)$/, '');
}

function moduleOf(path: string): string {
  return plain(plainPath(path).split('/').at(-1)!.replace(/\.ko$/, ''));
}

function plain(name: string): string {
  return name.replaceAll('-', '_');
}
