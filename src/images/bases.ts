// The phase `packages`: from image.yaml's base and packages to a root that is not yet this image's own.
import { lstatSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import { ALPINE_ALWAYS, alpineRoot, apkRepositories } from './base-alpine.ts';
import { debian } from './base-debian.ts';
import { ociRoot } from './base-oci.ts';
import { isForeign } from './emulation.ts';
import { checkPackages } from './packages.ts';
import { inRoot, installedPackages, placeText, quote } from './rootfs.ts';
import { keptRoot } from './roots.ts';
import type { ArchSpec, ImageSource } from './spec.ts';
import { must, type Workshop } from './workshop.ts';

export interface BaseOptions {
  readonly root: string;
  readonly stateDir: string;
  readonly shop: Workshop;
  /** Take what is newest, not what an earlier build kept. */
  readonly force?: boolean;
  /** Further options of mmdebstrap, such as those of a lock. */
  readonly mmdebstrap?: readonly string[];
  /** Called when all is installed and nothing of it is removed yet: what a lock has. */
  readonly onInstalled?: () => void;
  readonly at: (fraction: number, message?: string) => void;
}

/** Fills `root`, which is not there yet. IMAGE_SPEC_INVALID for packages that the mirror does not have, IMAGE_BUILD_FAILED otherwise. */
export async function unpackBase(source: ImageSource, spec: ArchSpec, options: BaseOptions): Promise<void> {
  const { root, stateDir, shop, at } = options;
  const { base } = spec;
  if ('debian' in base) {
    // Another processor's packages are kept as they were configured: that takes minutes under emulation. Those of a lock are asked for one by one.
    const kept = isForeign(spec.arch) && !options.mmdebstrap?.length ? keptRoot(stateDir, spec) : undefined;
    if (options.force || !(await kept?.restore(shop, root))) {
      await checkPackages(source, spec, base, stateDir, shop);
      await debian(spec, base, root, stateDir, shop, at, options.mmdebstrap);
      const why = await kept?.keep(shop, root);
      if (why !== undefined) at(0.99, `not kept for later builds: ${why}`);
    }
  } else {
    mkdirSync(root);
    const archive = join(shop.dir, 'base.tar');
    if ('oci' in base) await ociRoot(base.oci, spec.arch, shop.dir, archive);
    else if ('alpine' in base) await alpineRoot(base, spec.arch, stateDir, shop.dir, archive);
    if ('tree' in base) await must(shop, ['cp', '--archive', '--no-target-directory', base.tree, root], 'the tree could not be copied');
    else await must(shop, ['tar', '--numeric-owner', '--xattrs', '--xattrs-include=*', '-xpf', archive, '-C', root], 'the base could not be unpacked');
    rmSync(archive, { force: true });
    if (!lstatSync(join(root, 'usr'), { throwIfNoEntry: false })?.isDirectory()) throw new AppError('IMAGE_BUILD_FAILED', 'the base has no directory /usr: it is no root', 'base in image.yaml');
    at(0.4, 'base unpacked');
    if ('alpine' in base) placeText(root, '/etc/apk/repositories', apkRepositories(base));
    await install(spec, root, shop);
  }
  options.onInstalled?.();
  await removePackages(spec, root, shop);
}

/** Packages by the root's own means; a base without any must bring all that it needs. */
async function install(spec: ArchSpec, root: string, shop: Workshop): Promise<void> {
  const own = [...(spec.kernel.package === undefined ? [] : [spec.kernel.package]), ...spec.packages];
  const wanted = 'alpine' in spec.base ? [...new Set([...ALPINE_ALWAYS, ...own])] : own;
  if (wanted.length === 0) return;
  const apt = inRoot(root, '/usr/bin/apt-get') !== undefined;
  const apk = (inRoot(root, '/sbin/apk') ?? inRoot(root, '/usr/bin/apk')) !== undefined;
  if (!apt && !apk) throw new AppError('IMAGE_BUILD_FAILED', `the base has neither apt-get nor apk, so ${wanted[0]} cannot be installed`, "leave `packages` and `kernel.package` out of image.yaml: the base's own /boot/vmlinuz-* and /lib/modules are taken");
  const names = wanted.map(quote).join(' ');
  // A kernel of Debian wants a maker of initrds: the lightest.
  const initrd = spec.kernel.package === undefined ? '' : 'tiny-initramfs';
  const commands = apt
    ? ['in_root apt-get -q -o APT::Sandbox::User=root update', `in_root apt-get -q -y -o APT::Sandbox::User=root -o Dpkg::Options::=--force-unsafe-io --no-install-recommends install ${names} ${initrd}`]
    : [`in_root apk add --no-cache --no-progress ${names}`];
  const resolver = existing('/etc/resolv.conf');
  if (resolver !== undefined) placeText(root, '/etc/resolv.conf', resolver);
  // Debian's own switch for packages that would start their services.
  if (apt) placeText(root, '/usr/sbin/policy-rc.d', '#!/bin/sh\nexit 101\n', 0o755);
  const code = await shop.asRoot(['sh', '-c', [MOUNTS, ...commands].join('\n'), 'sh', root]);
  if (apt) rmSync(join(root, 'usr/sbin/policy-rc.d'), { force: true });
  if (code === 0) return;
  const lines = shop.said().split('\n').map((line) => line.trim()).filter(Boolean);
  const at = lines.findIndex((line) => /^(E:|ERROR:|W: Failed)/.test(line));
  // apk says what it is about in the next line.
  const reason = at < 0 ? (lines.at(-1) ?? `exit ${code}`) : lines[at]!.endsWith(':') ? `${lines[at]} ${lines[at + 1] ?? ''}` : lines[at]!;
  throw new AppError('IMAGE_BUILD_FAILED', `packages: ${reason.replace(/^(E|W|ERROR): ?/, '')}`, `the whole log is ${shop.log}`);
}

/** The namespaces are the build's own, and the mounts go with them. */
const MOUNTS = `set -eu
root=$1
in_root() { PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@" </dev/null; }
for dir in proc dev; do
  [ ! -L "$root/$dir" ] || { echo "/$dir is a link in this image, and must be a directory"; exit 1; }
  mkdir -p "$root/$dir"
done
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"`;

/** `remove`: those that depend on them stay, as they are. Maintainer scripts run in the root; a package that is not there is removed already. */
async function removePackages({ remove }: ArchSpec, root: string, shop: Workshop): Promise<void> {
  if (remove.length === 0) return;
  const names = remove.map(quote).join(' ');
  const script = `${MOUNTS}
if [ -x "$root/usr/bin/dpkg" ]; then
  names=
  for name in ${names}; do if in_root dpkg-query --status "$name" >/dev/null 2>&1; then names="$names $name"; fi; done
  [ -z "$names" ] || in_root dpkg --purge --force-depends --force-remove-essential --force-remove-protected --force-unsafe-io $names
elif [ -x "$root/sbin/apk" ] || [ -x "$root/usr/bin/apk" ]; then
  in_root apk del --no-network --force-broken-world ${names}
else
  echo 'the image has neither dpkg nor apk'
  exit 1
fi`;
  await must(shop, ['sh', '-c', script, 'sh', root], 'remove');
  const left = installedPackages(root).map((line) => line.split(' ')[0]!).find((name) => remove.includes(name));
  if (left !== undefined) throw new AppError('IMAGE_BUILD_FAILED', `remove: ${left} is installed all the same`, `the whole log is ${shop.log}`);
}

function existing(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

