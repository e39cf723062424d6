// The names in a profile against what exists: image, artifacts, commit and steps, each with "did you mean".
import { imageRef, type ArtifactRef, type ImageRef, type PostBootRef } from '../boot/profile.ts';
import { garbledByGrub, garbledWords } from '../boot/grub.ts';
import { shimLacks, type LoaderChoice } from '../boot/loader.ts';
import { isLoaderSet } from '../boot/loader-set.ts';
import { UKI_LOADER } from '../boot/uki.ts';
import { lineOf, type Fault } from '../errors.ts';
import { isLoaderName } from '../loaders.ts';
import { entriesOf, member } from './claims.ts';
import type { YamlFile } from './document.ts';
import { nearest, type Path } from './faults.ts';
import { parseImage, profileSchema } from './profile-schema.ts';
import type { Resolver } from './resolver.ts';

const parts = profileSchema.shape;

/** What one profile's names mean; what is missing here has a fault instead. */
export interface References {
  readonly image?: ImageRef;
  readonly postBoot?: PostBootRef;
  readonly artifacts: Readonly<Record<string, ArtifactRef>>;
}

/**
 * Each part that is right by itself is asked for, so that a file with other faults reports its unknown names too; one that breaks the
 * schema never reaches a store or Git. Never throws.
 */
export async function resolveReferences(yaml: YamlFile, resolver: Resolver): Promise<{ readonly references: References; readonly faults: readonly Fault[] }> {
  const faults: Fault[] = [];
  const fault = (path: Path, message: string, hint?: string, key = false): undefined => {
    faults.push({ file: yaml.file, ...yaml.place(path, { key }), message, ...(hint ? { hint } : {}) });
  };
  const asked = async <T>(path: Path, question: () => Promise<T | undefined>): Promise<T | undefined> => {
    try {
      return await question();
    } catch (error) {
      return fault(path, `cannot be resolved: ${lineOf(error)}`);
    }
  };
  const image = await asked(['image'], () => resolveImage(yaml, resolver, fault));
  const artifacts: Record<string, ArtifactRef> = {};
  for (const [name, version] of entriesOf(member(yaml.value, 'artifacts'))) {
    const found = typeof version === 'string' && parts.artifacts.safeParse({ [name]: version }).success ? await asked(['artifacts', name], () => resolveArtifact(name, version, resolver, fault)) : undefined;
    if (found) artifacts[name] = found;
  }
  const postBoot = await asked(['postBoot'], () => resolvePostBoot(yaml, resolver, fault));
  const wishes = loaderWishes(yaml);
  checkGrub(yaml, wishes, fault);
  await asked(['loader'], () => checkLoaders(wishes, resolver, fault, image));
  const booted = image && wishes.some(({ loader }) => loader === UKI_LOADER) ? image : withoutUki(image);
  return { references: { ...(booted ? { image: booted } : {}), ...(postBoot ? { postBoot } : {}), artifacts }, faults };
}

type Complain = (path: Path, message: string, hint?: string, key?: boolean) => undefined;

async function resolveImage(yaml: YamlFile, resolver: Resolver, fault: Complain): Promise<ImageRef | undefined> {
  const text = member(yaml.value, 'image');
  const wanted = typeof text === 'string' ? parseImage(text) : undefined;
  if (!wanted) return undefined;
  const found = await resolver.image(wanted.name, wanted.ref);
  if (found) return imageRef(found);
  const names = await resolver.imageNames();
  if (names.includes(wanted.name)) return fault(['image'], `image ${wanted.name} has no ${wanted.ref?.tag ? `tag ${wanted.ref.tag}` : (wanted.ref?.digest ?? 'build')}`, `rackseed image show ${wanted.name}`);
  return fault(['image'], `unknown image ${wanted.name}`, meant(wanted.name, names) ?? `build it: rackseed image build ${wanted.name}`);
}

async function resolveArtifact(name: string, version: string, resolver: Resolver, fault: Complain): Promise<ArtifactRef | undefined> {
  const found = await resolver.artifact(name, version);
  if (found) return { version: found.version, digest: found.digest, size: found.size };
  const names = await resolver.artifactNames();
  const add = `add it: rackseed artifact add ${name} FILE --version ${version}`;
  if (!names.includes(name)) return fault(['artifacts', name], `unknown artifact ${name}`, meant(name, names) ?? add, true);
  const versions = await resolver.artifactVersions(name);
  return fault(['artifacts', name], `artifact ${name} has no version ${version}`, meant(version, versions) ?? add);
}

async function resolvePostBoot(yaml: YamlFile, resolver: Resolver, fault: Complain): Promise<PostBootRef | undefined> {
  const { data } = parts.postBoot.safeParse(member(yaml.value, 'postBoot'));
  if (!data) return undefined;
  const { repo, ref, steps } = data;
  const commit = await resolver.commit(repo, ref);
  if (!commit) {
    const names = await resolver.repoNames();
    if (names.includes(repo)) return fault(['postBoot', 'ref'], `repository ${repo} has no branch, tag or commit ${ref}`);
    return fault(['postBoot', 'repo'], `unknown repository ${repo}`, meant(repo, names) ?? 'name it under repos in rackseed.yaml');
  }
  if (await resolver.hasSteps(repo, commit, steps)) return { repo, commit, steps };
  return fault(['postBoot', 'steps'], `repository ${repo} has no steps in ${steps} at ${ref}`, meant(steps, await resolver.stepDirs(repo, commit)));
}

/** What nobody of a profile boots is no part of its boot set: each signature makes another UKI. */
function withoutUki(image: ImageRef | undefined): ImageRef | undefined {
  if (!image?.uki) return image;
  const { uki: _, ...rest } = image;
  return rest;
}

const SHIM: LoaderChoice = 'shim';

/** What a profile or node says of its loader: the file, and the set that it is from. */
interface Wish {
  /** Of the node; of the profile itself the empty path. */
  readonly at: Path;
  readonly loader: unknown;
  readonly loaders: unknown;
}

/** The profile's, and each node's. */
function loaderWishes(yaml: YamlFile): readonly Wish[] {
  const of = (at: Path, value: unknown): Wish => ({ at, loader: member(value, 'loader'), loaders: member(value, 'loaders') });
  return [of([], yaml.value), ...entriesOf(member(yaml.value, 'nodes')).map(([name, node]) => of(['nodes', name], node))];
}

/** A set that is not there, a file that the set does not have, or a UKI that the image does not have, is told where it stands, before any machine asks for it. */
async function checkLoaders(wishes: readonly Wish[], resolver: Resolver, fault: Complain, image: ImageRef | undefined): Promise<undefined> {
  for (const { at, loader } of wishes) if (loader === UKI_LOADER && image && !image.uki) fault([...at, 'loader'], `image ${image.name} has no UKI`, `make it: rackseed image uki ${image.name}`);
  if (!wishes.some(({ loader, loaders }) => isFile(loader) || loader === SHIM || loaders !== undefined)) return;
  const known = await resolver.loaderSets?.();
  if (!known) return;
  const inSet = (file: unknown, set: unknown, path: Path): undefined => {
    const files = isFile(file) || file === SHIM ? known.sets.get(String(set ?? known.default)) : undefined;
    const lacks = files && file === SHIM ? shimLacks(files) : undefined;
    if (lacks !== undefined) fault(path, `loader: shim: ${lacks}`, 'docs/HARDWARE.md says how to get both');
    if (files && file !== SHIM && !files.includes(file as string)) fault(path, `the loader set${set === undefined ? '' : ` ${String(set)}`} has no ${String(file)}`, meant(file as string, files) ?? 'rackseed loader list shows what it has');
  };
  for (const { at, loaders } of wishes) {
    if (typeof loaders !== 'string' || !isLoaderSet(loaders) || known.sets.has(loaders)) continue;
    fault([...at, 'loaders'], `unknown loader set ${loaders}`, meant(loaders, [...known.sets.keys()]) ?? `add it: rackseed loader add ${loaders} PATH`);
  }
  const [ofAll, ...ofNodes] = wishes;
  inSet(ofAll?.loader, ofAll?.loaders, ['loader']);
  for (const { at, loader, loaders } of ofNodes) {
    if (loader !== undefined) inSet(loader, loaders ?? ofAll?.loaders, [...at, 'loader']);
    // The profile's file from another set.
    else if (loaders !== undefined) inSet(ofAll?.loader, loaders, [...at, 'loaders']);
  }
}

/** What GRUB cannot hand on to the kernel as it stands. */
function checkGrub(yaml: YamlFile, wishes: readonly Wish[], fault: Complain): void {
  const cmdline = member(yaml.value, 'cmdline');
  if (!Array.isArray(cmdline) || !wishes.some(({ loader }) => loader === SHIM)) return;
  for (const [index, entry] of cmdline.entries()) if (garbledByGrub([String(entry)]) !== undefined) fault(['cmdline', index], garbledWords(String(entry)), 'another loader than shim hands it on');
}

function isFile(loader: unknown): boolean {
  return typeof loader === 'string' && isLoaderName(loader);
}

function meant(word: string, candidates: readonly string[]): string | undefined {
  const near = nearest(word, candidates);
  return near ? `did you mean ${near}?` : undefined;
}
