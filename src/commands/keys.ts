// `rackseed keys init secure-boot`: the operator's own Secure Boot keys, and how they get into a machine.
import { realpathSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { readSettings } from '../config/settings.ts';
import { AppError } from '../errors.ts';
import { makeSecureBootKeys } from '../images/signing.ts';

/** `dir`: default `secure-boot` here. Not below the state directory, all of which the daemon's user owns: whoever broke into the daemon would own the keys. */
export async function keysInit(options: { readonly config?: string; readonly dir?: string }): Promise<string> {
  const dir = resolve(options.dir ?? 'secure-boot');
  const { stateDir } = readSettings(options.config);
  if (`${realOf(dir)}/`.startsWith(`${realOf(resolve(stateDir))}/`)) throw new AppError('USAGE', `${dir} is in the state directory, which the daemon owns; the daemon needs no key`, 'name another directory: --dir /root/secure-boot');
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
