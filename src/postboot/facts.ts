// Facts: what a booted node is told about itself, as JSON and as lines for a POSIX shell. Pure.
import type { Node } from '../boot/node.ts';
import type { BootSet } from '../boot/profile.ts';
import type { Boot } from '../boot/timeline.ts';
import { blobPath, gitPath } from '../boot/urls.ts';
import { hexOf } from '../digest.ts';

export interface Facts {
  /** Version of the post-boot contract (docs/POSTBOOT.md). */
  readonly contract: 1;
  readonly node: string;
  readonly hostname: string;
  readonly mac: string;
  readonly ip: string;
  readonly url: string;
  readonly boot: string;
  readonly profile: string;
  readonly image: { readonly name: string; readonly digest: string };
  readonly root: { readonly state: string };
  readonly postBoot?: { readonly url: string; readonly commit: string; readonly steps: string };
  readonly artifacts: Readonly<Record<string, { readonly url: string; readonly sha256: string; readonly version: string; readonly size: number }>>;
  readonly labels: Readonly<Record<string, string>>;
  /** The profile's, overridden by the node's own. */
  readonly vars: Readonly<Record<string, string>>;
}

/** `baseUrl` is how the node reaches us: `http://10.77.0.1:8080`. */
export function factsOf(boot: Boot, bootSet: BootSet, node: Pick<Node, 'name' | 'labels' | 'vars'>, baseUrl: string): Facts {
  const { postBoot } = bootSet;
  return {
    contract: 1,
    node: node.name,
    hostname: node.name,
    mac: boot.mac,
    ip: boot.ip ?? '',
    url: baseUrl,
    boot: boot.id,
    profile: boot.profile,
    image: { name: bootSet.image.name, digest: bootSet.image.digest },
    root: bootSet.root,
    ...(postBoot ? { postBoot: { url: baseUrl + gitPath(postBoot.repo), commit: postBoot.commit, steps: postBoot.steps } } : {}),
    artifacts: Object.fromEntries(
      Object.entries(bootSet.artifacts).map(([name, artifact]) => [
        name,
        { url: baseUrl + blobPath(artifact.digest), sha256: hexOf(artifact.digest), version: artifact.version, size: artifact.size },
      ]),
    ),
    labels: node.labels,
    vars: { ...bootSet.vars, ...node.vars },
  };
}

/** `RACKSEED_NAME='value'` lines, quoted so that sourcing them runs nothing whatever a value holds. */
export function factsAsEnvironment(facts: Facts): string {
  const named = (prefix: string, values: Readonly<Record<string, string>>): [string, string][] => Object.entries(values).map(([name, value]) => [`${prefix}_${name}`, value]);
  const pairs: [string, string | number][] = [
    ['CONTRACT', facts.contract],
    ['NODE', facts.node],
    ['HOSTNAME', facts.hostname],
    ['MAC', facts.mac],
    ['IP', facts.ip],
    ['URL', facts.url],
    ['BOOT', facts.boot],
    ['PROFILE', facts.profile],
    ['IMAGE_NAME', facts.image.name],
    ['IMAGE_DIGEST', facts.image.digest],
    ['ROOT_STATE', facts.root.state],
    ['POSTBOOT_URL', facts.postBoot?.url ?? ''],
    ['POSTBOOT_COMMIT', facts.postBoot?.commit ?? ''],
    ['POSTBOOT_STEPS', facts.postBoot?.steps ?? ''],
    ...Object.entries(facts.artifacts).flatMap(([name, artifact]) =>
      named(`ARTIFACT_${name}`, { URL: artifact.url, SHA256: artifact.sha256, VERSION: artifact.version, SIZE: String(artifact.size) }),
    ),
    ...named('LABEL', facts.labels),
    ...named('VAR', facts.vars),
  ];
  return pairs.map(([name, value]) => `RACKSEED_${shellName(name)}=${shellQuoted(String(value))}\n`).join('');
}

function shellName(name: string): string {
  return name.toUpperCase().replace(/[^A-Z0-9_]/g, '_');
}

function shellQuoted(value: string): string {
  return `'${value.replaceAll("'", `'\\''`)}'`;
}
