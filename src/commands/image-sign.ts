// `rackseed image sign`, and what `image build` signs with and puts into the initrd.
import { resolve } from 'node:path';
import { readSettings } from '../config/settings.ts';
import { AppError } from '../errors.ts';
import { publicBeside, readSecretKey, readTrust, type ImageTrust } from '../images/image-keys.ts';
import { parseRef } from '../images/refs.ts';
import { isOthers, signImage } from '../images/sign.ts';
import { settingsOf, stateOf, type ImageOptions } from './image-options.ts';
import { render } from './output.ts';
import { keyPassword } from './password.ts';

/** Of the settings' `images`, where there are settings: `--state` alone needs none. `sign` comes before theirs; what is not signed needs no secret key. KEY_INVALID. */
export async function trustFor({ sign, isSigned = true, ...where }: Pick<ImageOptions, 'config' | 'state'> & { readonly sign?: string; readonly isSigned?: boolean }): Promise<ImageTrust> {
  const { sign: own, keys = [], floor } = settingsOf(where)?.images ?? {};
  const signer = sign === undefined ? own : resolve(sign);
  const limits = floor === undefined ? {} : { floor };
  if (signer === undefined) return readTrust({ keys, ...limits });
  if (!isSigned) return readTrust({ keys: keys.length > 0 ? keys : [publicBeside(signer)], ...limits });
  return readTrust({ sign: signer, keys, ...limits }, keyPassword);
}

/** `ref` is `name`, `name:tag` or `name@sha256:<digest>`; `key` is by default the settings' `images.sign`. */
export async function imageSign(ref: string, options: ImageOptions & { readonly key?: string }): Promise<string> {
  const { name, query } = parseRef(ref);
  const stateDir = stateOf(options);
  if (query.digest === undefined && (await isOthers(stateDir))) {
    throw new AppError('USAGE', `${stateDir} is not root's, and whose it is can change what ${ref} is`, `name the build by the digest that it printed when it was made (rackseed image build ${name} --force -o wide): ${name}@sha256:…`);
  }
  const file = options.key === undefined ? readSettings(options.config).images.sign : resolve(options.key);
  if (file === undefined) throw new AppError('USAGE', 'no key to sign with', 'name one: --key images.key, or images.sign in rackseed.yaml (rackseed keys init images)');
  const key = await readSecretKey(file, keyPassword);
  const image = await signImage({ name, query, stateDir, key });
  if (options.output === 'json' || options.output === 'yaml') return render(options.output, image, [], []);
  const looks = image.trusts ? '' : `\nits initrd has no keys and goes by the digest in its config: to have it ask for a signature, build it with images.keys (${publicBeside(file)})`;
  const cmdline = image.cmdline && image.cmdline.length > 0 ? `, kernel arguments ${image.cmdline.join(' ')}` : '';
  return `image ${name}@${image.digest} serial ${image.serial ?? 0} signed by key ${key.id}${cmdline}; rackseed reload lets it boot so${looks}\n`;
}
