// What names, tags and refs mean right now; asked only while a generation is compiled.
import type { ArtifactRef, ImageRef } from '../boot/profile.ts';
import type { Digest } from '../digest.ts';
import type { ArtifactStore } from '../store/artifacts.ts';

/**
 * The stores and mirrors as the compiler sees them. `undefined` and `false` mean "there is none"; a rejected promise means "cannot
 * be told now" and becomes a fault with its message. The lists are asked only to say what may have been meant.
 */
export interface Resolver {
  /** Without `ref` the image's newest build. */
  image(name: string, ref?: { readonly tag?: string; readonly digest?: Digest }): Promise<ImageRef | undefined>;
  imageNames(): Promise<readonly string[]>;
  artifact(name: string, version: string): Promise<ArtifactRef | undefined>;
  artifactNames(): Promise<readonly string[]>;
  artifactVersions(name: string): Promise<readonly string[]>;
  /** Full commit id of a branch, tag or commit; undefined also when there is no such repository. */
  commit(repo: string, ref: string): Promise<string | undefined>;
  repoNames(): Promise<readonly string[]>;
  hasSteps(repo: string, commit: string, dir: string): Promise<boolean>;
  stepDirs(repo: string, commit: string): Promise<readonly string[]>;
  /** Absent or undefined: not known here, and every name may be right. */
  loaderSets?(): Promise<LoaderNames | undefined>;
}

/** The loader sets as far as a profile can be wrong about them. */
export interface LoaderNames {
  /** The set of nodes for which none is named. */
  readonly default: string;
  /** By set the names of its files. */
  readonly sets: ReadonlyMap<string, readonly string[]>;
}

/** What the resolver asks of the images; images/ is above us, so it is named here by what it does. */
export interface ImageLookup {
  /** Without `ref` the newest build. */
  resolve(name: string, ref?: { readonly tag?: string; readonly digest?: Digest }): Promise<ImageRef | undefined>;
  names(): Promise<readonly string[]>;
}

/** What the resolver asks of the mirrors: `Repos` has all of it. */
export interface RepoLookup {
  resolve(repo: string, ref: string): Promise<{ readonly commit: string } | undefined>;
  hasSteps(repo: string, commit: string, directory: string): Promise<boolean>;
  list(repo: string, commit: string): Promise<readonly string[]>;
  status(): readonly { readonly name: string }[];
}

/** The resolver of a running daemon, and of `rackseed check` beside its state. */
export function createResolver({ images, artifacts, repos, loaders }: { readonly images: ImageLookup; readonly artifacts: Pick<ArtifactStore, 'get' | 'list'>; readonly repos: RepoLookup; readonly loaders?: () => LoaderNames }): Resolver {
  return {
    image: (name, ref) => images.resolve(name, ref),
    imageNames: () => images.names(),
    artifact: (name, version) => artifacts.get(name, version),
    artifactNames: async () => [...new Set((await artifacts.list()).map((artifact) => artifact.name))],
    artifactVersions: async (name) => (await artifacts.list()).filter((artifact) => artifact.name === name).map((artifact) => artifact.version),
    commit: async (repo, ref) => (repos.status().some((known) => known.name === repo) ? (await repos.resolve(repo, ref))?.commit : undefined),
    repoNames: async () => repos.status().map((repo) => repo.name),
    hasSteps: (repo, commit, dir) => repos.hasSteps(repo, commit, dir),
    stepDirs: (repo, commit) => repos.list(repo, commit),
    loaderSets: async () => loaders?.(),
  };
}
