// `rackseed check`: the settings, every boot profile and every image.yaml, validated without a daemon and without writing anything.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';
import type { ImageRef } from '../boot/profile.ts';
import { servesUnlisted } from '../config/dhcp-settings.ts';
import { compile, readProfiles } from '../config/profiles.ts';
import type { LoaderNames, Resolver } from '../config/resolver.ts';
import { readSettings, SETTINGS_PLACES, type Settings } from '../config/settings.ts';
import { checkTls } from '../config/tls.ts';
import { AppError, ERRORS, FaultsError, lineOf, type Fault } from '../errors.ts';
import { createImageStore, type ImageStore } from '../images/manifest.ts';
import { imageNames, readImageSpec } from '../images/spec.ts';
import { loaderNames, readLoaderSets, troubleLine } from '../loader-sets.ts';
import { SHIPPED } from '../shipped.ts';
import { checkJson, checkSarif, type CheckFormat, type Checked, type CheckFault, type FaultCode } from './check-formats.ts';
import { createArtifactStore, type ArtifactStore } from '../store/artifacts.ts';
import { openReadOnly } from '../store/readonly.ts';

export interface CheckOptions {
  readonly config?: string;
  /** This directory in place of the settings' one; without `config` no settings are read, so addresses and artifacts are not checked. */
  readonly profiles?: string;
  /** Default text. */
  readonly format?: CheckFormat;
  /** What paths in json and sarif are relative to; default: the current directory. */
  readonly base?: string;
}

/**
 * Prints `ok` with counts and what could not be checked; every fault of every file is in the FaultsError that is thrown otherwise
 * (CONFIG_INVALID before PROFILES_INVALID before IMAGE_SPEC_INVALID). As json and sarif the document is printed in either case, and the error that is thrown has no
 * more than the count. CONFIG_MISSING, and no document, when there is nothing to check at all.
 */
export async function checkCommand(options: CheckOptions, io: { readonly print: (text: string) => void }): Promise<void> {
  const { format = 'text', base = process.cwd() } = options;
  const { settings, ...checked } = await check(options);
  const { faults, counted, images, notChecked } = checked;
  const worst = (['CONFIG_INVALID', 'PROFILES_INVALID', 'IMAGE_SPEC_INVALID'] as const).find((code) => faults.some((fault) => fault.code === code));
  if (format !== 'text') {
    const { version } = JSON.parse(readFileSync(SHIPPED.packageJson, 'utf8')) as { version: string };
    const document = { ...checked, ...(settings ? { settings: settings.file } : {}) };
    io.print(format === 'json' ? checkJson(document, base) : checkSarif(document, base, version));
    if (worst) throw new AppError(worst, `${ERRORS[worst].what}: ${faults.length} ${faults.length === 1 ? 'fault' : 'faults'}`);
    return;
  }
  if (worst) throw new FaultsError(worst, faults.map(({ code: _code, ...fault }) => fault));
  const of = (count: number, what: string) => `${count} ${what}${count === 1 ? '' : 's'}`;
  const parts = [...(settings ? [short(settings.file)] : []), of(counted.profiles, 'profile'), of(counted.nodes, 'node'), ...(images > 0 ? [of(images, 'image spec')] : [])];
  io.print(`ok: ${parts.join(', ')}\n`);
  for (const what of notChecked) io.print(`not checked: ${what}\n`);
}

async function check(options: CheckOptions): Promise<Omit<Checked, 'settings'> & { readonly settings?: Settings }> {
  const faults: CheckFault[] = [];
  const add = (code: FaultCode, found: readonly Fault[]): void => void faults.push(...found.map((fault) => ({ ...fault, code })));
  const collect = <T>(read: () => T): T | undefined => {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof FaultsError)) throw error;
      add(error.code as FaultCode, error.faults);
      return undefined;
    }
  };

  const alone = options.config === undefined && (options.profiles !== undefined || (!SETTINGS_PLACES.some((place) => existsSync(place)) && existsSync('boot-profiles')));
  const settings = alone ? undefined : collect(() => readSettings(options.config));
  const notChecked = new Set<string>(settings ? [] : ['addresses (no settings)']);
  if (settings?.http.tls) {
    const { faults: wrong, unreadable } = checkTls(settings.http.tls);
    add('CONFIG_INVALID', wrong);
    for (const path of unreadable) notChecked.add(`${path} (not for this user to read)`);
  }
  let counted = { profiles: 0, nodes: 0 };
  if (alone || settings) {
    const artifacts = settings && openArtifacts(settings.stateDir, notChecked);
    try {
      const dir = short(options.profiles ?? settings?.profilesDir ?? 'boot-profiles');
      const files = await readProfiles(dir);
      const loaders = settings && (await readLoaders(settings, notChecked, (fault) => add('CONFIG_INVALID', [fault])));
      const compiled = await compile(files, whatIsHere(settings, artifacts?.store, loaders, notChecked), settings?.dhcp.subnets, settings && servesUnlisted(settings.dhcp));
      add('PROFILES_INVALID', compiled.faults);
      counted = { profiles: Object.keys(compiled.generation?.profiles ?? {}).length, nodes: Object.keys(compiled.generation?.nodes ?? {}).length };
    } finally {
      await artifacts?.close();
    }
  }
  const imagesDir = [...(settings && existsSync(settings.images.dir) ? [settings.images.dir] : []), SHIPPED.images].map(short);
  const images = options.profiles === undefined ? imageNames(imagesDir) : [];
  for (const name of images) collect(() => readImageSpec(imagesDir, name));

  return { faults, counted, images: images.length, notChecked: [...notChecked].sort(), ...(settings ? { settings } : {}) };
}

/** Answers from what is on this disk; where it cannot tell it says yes and writes down that it did not look. */
function whatIsHere(settings: Settings | undefined, artifacts: ArtifactStore | undefined, loaders: LoaderNames | undefined, notChecked: Set<string>): Resolver {
  const images: ImageStore | undefined = settings && existsSync(join(settings.stateDir, 'images')) ? createImageStore(settings.stateDir) : undefined;
  const unknown = (what: string): undefined => void notChecked.add(what);
  const repos = ['post-boot', ...Object.keys(settings?.repos ?? {})];
  return {
    image: async (name, ref) => (images ? images.resolve(name, ref) : (unknown(`image ${name}`), anyImage(name))),
    imageNames: async () => (await images?.names()) ?? [],
    artifact: async (name, version) => (artifacts ? artifacts.get(name, version) : (unknown(`artifact ${name} ${version}`), { version, digest: NO_DIGEST, size: 0 })),
    artifactNames: async () => ((await artifacts?.list()) ?? []).map((artifact) => artifact.name),
    artifactVersions: async (name) => ((await artifacts?.list()) ?? []).filter((artifact) => artifact.name === name).map((artifact) => artifact.version),
    commit: async (repo, ref) => (settings && !repos.includes(repo) ? undefined : (unknown(`${ref} in repository ${repo}`), NO_COMMIT)),
    repoNames: async () => repos,
    hasSteps: async (repo, _commit, dir) => repo !== 'post-boot' || hasSteps(join(SHIPPED.postBoot, dir)),
    loaderSets: async () => loaders,
    stepDirs: async (repo) => (repo === 'post-boot' ? readdirSync(SHIPPED.postBoot).filter((dir) => hasSteps(join(SHIPPED.postBoot, dir))) : []),
  };
}

/** As a daemon that starts or reloads now would have them. */
async function readLoaders(settings: Settings, notChecked: Set<string>, wrong: (fault: Fault) => void): Promise<LoaderNames | undefined> {
  try {
    const sets = await readLoaderSets({ ...settings.loaders, stateDir: settings.stateDir });
    for (const trouble of sets.troubles) notChecked.add(troubleLine(trouble));
    return loaderNames(sets);
  } catch (error) {
    if (error instanceof AppError && error.code === 'CONFIG_INVALID') wrong({ file: settings.file, ...settings.loaders.at, message: error.message, ...(error.hint ? { hint: error.hint } : {}) });
    else notChecked.add(`loaders (${settings.loaders.dir} cannot be read)`);
    return undefined;
  }
}

const NO_DIGEST = `sha256:${'0'.repeat(64)}`;
const NO_COMMIT = '0'.repeat(40);

function anyImage(name: string): ImageRef {
  const blob = { digest: NO_DIGEST, size: 0 };
  return { name, digest: NO_DIGEST, arch: 'amd64', kernel: blob, initrds: [blob], squashfs: blob, uki: blob };
}

function hasSteps(dir: string): boolean {
  return statSync(dir, { throwIfNoEntry: false })?.isDirectory() === true && readdirSync(dir).some((name) => /^\d\d-/.test(name));
}

/** The daemon's artifacts, for reading only: a check must not migrate the database of a daemon that is older than itself. */
function openArtifacts(stateDir: string, notChecked: Set<string>): { readonly store: ArtifactStore; close(): Promise<void> } | undefined {
  const file = join(stateDir, 'rackseed.db');
  if (!existsSync(file)) return undefined;
  try {
    const database = openReadOnly(file);
    try {
      return { store: createArtifactStore(database), close: () => database.close() };
    } catch (error) {
      void database.close();
      throw error;
    }
  } catch (error) {
    notChecked.add(`the artifact store (${lineOf(error)})`);
    return undefined;
  }
}

/** As people would type it from here. */
function short(path: string): string {
  const from = relative(process.cwd(), path);
  return from === '' ? '.' : from.startsWith('..') ? path : from;
}
