// `rackseed keys init secure-boot|images`: the operator's own keys, and how they get to where they count.
import { realpathSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { readSettings } from '../config/settings.ts';
import { AppError } from '../errors.ts';
import { makeImageKeys } from '../images/image-keys.ts';
import { makeSecureBootKeys } from '../images/signing.ts';

interface KeysOptions {
  readonly config?: string;
  /** Default: `secure-boot` or `image-keys`, here. */
  readonly dir?: string;
}

/** USAGE for a kind of keys that there is not. */
export async function keysInit(kind: string, options: KeysOptions): Promise<string> {
  if (kind === 'secure-boot') return secureBootKeys(options);
  if (kind === 'images') return imageKeys(options);
  throw new AppError('USAGE', `${kind}: there are no such keys`, 'rackseed keys init secure-boot, or rackseed keys init images');
}

/** Not below the state directory, all of which the daemon's user owns: whoever broke into the daemon would own the keys. */
function placeFor(dir: string, { config }: KeysOptions): string {
  const { stateDir } = readSettings(config);
  if (`${realOf(dir)}/`.startsWith(`${realOf(resolve(stateDir))}/`)) throw new AppError('USAGE', `${dir} is in the state directory, which the daemon owns; the daemon needs no key`, `name another directory: --dir /root/${basename(dir)}`);
  return dir;
}

function imageKeys(options: KeysOptions): string {
  const dir = placeFor(resolve(options.dir ?? 'image-keys'), options);
  const { id } = makeImageKeys(dir);
  return `${dir}: key ${id}, in minisign's form

  images.key   the secret key, not encrypted: whoever has it decides what your machines boot. A password for it: minisign -C -s ${dir}/images.key
  images.pub   the public key: the initrd of each image that is built from now on carries it, and boots nothing that it does not verify

In rackseed.yaml, where images are built:

  images:
    sign: ${dir}/images.key

Then: rackseed image build NAME   (signs; another key in the initrd is another build), rackseed reload
To change keys, let old and new overlap: keys: [OLD/images.pub, NEW/images.pub], build, and when every node has booted that, sign: NEW/images.key;
once no image that the old key signed is in use, take its .pub away.
By hand: minisign -V -p ${dir}/images.pub -m MANIFEST -x SIGNATURE   (rackseed image show NAME -o json has both digests)
`;
}

async function secureBootKeys(options: KeysOptions): Promise<string> {
  const dir = placeFor(resolve(options.dir ?? 'secure-boot'), options);
  await makeSecureBootKeys(dir);
  return `${dir}: PK, KEK and db, for ten years

  *.key   the private keys: whoever has them decides what your machines boot. Keep PK.key and KEK.key off this machine once all are enrolled.
  *.crt *.cer   the certificates, as PEM and as DER
  *.esl *.auth  the same for enrolment: .esl for a firmware in setup mode, .auth also for one that has these keys already

Enrol, on each machine once, in the order db, KEK, PK (with PK the firmware leaves setup mode):
  in its setup screens   delete the keys that are there, then take db.cer, KEK.cer and PK.cer from a FAT stick
  from a running Linux   efi-updatevar -f db.auth db; efi-updatevar -f KEK.auth KEK; efi-updatevar -f PK.auth PK   (package efitools)
  QEMU's OVMF            python3 -m virt.firmware.vars --set-pk GUID PK.crt --add-kek GUID KEK.crt --add-db GUID db.crt --secure-boot; GUID is in owner.guid
Option ROMs of cards are signed by Microsoft: a machine that needs one must have Microsoft's certificates in db as well.

Then: rackseed image uki NAME@sha256:... --sign ${dir}   (as its build printed it: rackseed image build NAME --force -o wide)
`;
}

/** Without links, as far as it is there. */
function realOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    const parent = dirname(path);
    return parent === path ? path : join(realOf(parent), basename(path));
  }
}
