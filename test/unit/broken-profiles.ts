// Boot profiles that are right, and small edits that make them wrong, each with the faults that it must bring.
import type { ProfileFile } from '../../src/config/profiles.ts';

/** What must exist for the good ones: image, artifact, and steps on `main` of a repository. */
export const KNOWN = { image: 'debian-k0s', artifact: 'k0s', version: 'v1.36.1+k0s.0', repo: 'post-boot', ref: 'main', steps: 'k0s-single', subnet: '10.77.0.0/24', serverIp: '10.77.0.1', router: '10.77.0.2' } as const;

/** Made for these tests; nobody has the private halves. */
export const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILhddaOdkoxByRhVQZdBG4sGyYj/wVxiKocTBrp9+/Yo ops@example';
export const OTHER_KEY = 'ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBGPscuQ3JUbeitRnb93E3ejdbXiW/R8mkDTsT/4eUy53DQt2budQHNPUiEhfB68qcEy74xh4YRcHUxrBQ6xv6/s= laptop';

/** Good as they stand; `a.yaml` uses all there is. */
export const GOOD: Readonly<Record<'a.yaml' | 'b.yaml', string>> = {
  'a.yaml': `image: debian-k0s
cmdline: [console=ttyS0, quiet]
root: { state: none }
postBoot: { repo: post-boot, ref: main, steps: k0s-single }
artifacts: { k0s: v1.36.1+k0s.0 }
vars: { replicas: 3 }
nodes:
  n1: { macs: [52:54:00:12:34:56], ip: 10.77.0.11, labels: { rack: r1 }, dhcpOptions: { interface-mtu: 1400 } }
  n2:
    macs:
      - 52:54:00:12:34:57
      - 02-00-00-00-00-0a
    ip: 10.77.0.12
    exit: sanboot
dhcpOptions: { ntp-servers: [10.77.0.5], interface-mtu: 9000 }
ssh: { keys: [${KEY}] }
config: { etc/motd: hello, run.sh: "#!/bin/sh\\n" }
shell: true
`,
  'b.yaml': `boot: local
nodes:
  n3: { macs: [52:54:00:12:34:58], ip: 10.77.0.13 }
`,
};

export interface Broken {
  readonly what: string;
  readonly file: keyof typeof GOOD;
  /** The first `from` in the file becomes `to`; without `from` the whole file becomes `to`. */
  readonly from?: string;
  readonly to: string;
  /** Every fault line, without the directory in front of the file names. */
  readonly faults: readonly string[];
}

const in_ = (file: Broken['file']) => (what: string, from: string | undefined, to: string, ...faults: string[]): Broken => ({ what, file, ...(from === undefined ? {} : { from }), to, faults });
const a = in_('a.yaml');
const b = in_('b.yaml');

export const BROKEN: readonly Broken[] = [
  a('an unclosed list', '[console=ttyS0, quiet]', '[console=ttyS0, quiet', 'a.yaml:3:1: Flow sequence in block collection must be sufficiently indented and end with a ]'),
  a('a tab as indentation', '  n2:', '\tn2:', 'a.yaml:9:1: Tabs are not allowed as indentation'),
  a('a second document', 'vars:', '---\nvars:', 'a.yaml:6:1: a second document starts here; one file holds one'),
  a('an empty file', undefined, '', 'a.yaml:1:1: image: missing (or boot: local, to boot from disk)'),
  a('only comments', undefined, '# nothing yet\n', 'a.yaml:1:1: image: missing (or boot: local, to boot from disk)'),
  a('a list at the top', undefined, '- image: debian-k0s\n', 'a.yaml:1:1: must be a map of keys, such as image: debian-k0s'),
  a('text at the top', undefined, 'debian-k0s\n', 'a.yaml:1:1: must be a map of keys, such as image: debian-k0s'),
  a('one key twice', 'vars:', 'image: debian-k0s\nvars:', 'a.yaml:6:1: key image stands twice in one map, also at a.yaml:1:1'),
  a('one node twice in a file', '  n2:', '  n1:', 'a.yaml:9:3: key n1 stands twice in one map, also at a.yaml:8:3'),
  a('an alias to nothing', 'debian-k0s', '*base', 'a.yaml:1:8: *base names no anchor that stands before it'),
  a('an alias to itself', '{ replicas: 3 }', '&v { replicas: *v }', 'a.yaml:6:22: *v contains itself'),
  a('a tag', 'debian-k0s', '!image debian-k0s', 'a.yaml:1:8: tag !image means nothing here'),
  a('a key that is a list', 'vars:', '[vars]:', 'a.yaml:6:1: a key must be plain text'),
  a('the key __proto__', '{ replicas: 3 }', '{ __proto__: 3 }', 'a.yaml:6:9: key __proto__ cannot be used'),
  a('a misspelt key', 'postBoot', 'postboot', 'a.yaml:4:1: unknown key postboot (did you mean postBoot?)'),
  a('a misspelt key of a node', 'exit: sanboot', 'exti: sanboot', 'a.yaml:14:5: unknown key exti (did you mean exit?)'),
  a('a misspelt key of root', 'state: none', 'sate: none', 'a.yaml:3:9: unknown key sate (did you mean state?)'),
  a('a misspelt key of postBoot', 'steps:', 'step:', 'a.yaml:4:11: postBoot.steps: missing', 'a.yaml:4:41: unknown key step (did you mean steps?)'),
  a('a key that means nothing at all', 'vars:', 'frobnicate: 1\nvars:', 'a.yaml:6:1: unknown key frobnicate'),
  a('a misspelt image key', 'image:', 'imgae:', 'a.yaml:1:1: unknown key imgae (did you mean image?)'),
  a('neither image nor boot', 'image: debian-k0s\n', '', 'a.yaml:1:1: image: missing (or boot: local, to boot from disk)'),
  a('an image without a name', 'image: debian-k0s', 'image:', 'a.yaml:1:7: image: empty'),
  a('an image that is a list', 'image: debian-k0s', 'image: [debian-k0s]', 'a.yaml:1:8: image: must be one value, not a list'),
  a('an unknown image', 'debian-k0s', 'debain-k0s', 'a.yaml:1:8: unknown image debain-k0s (did you mean debian-k0s?)'),
  a('an image nothing is like', 'debian-k0s', 'windows', 'a.yaml:1:8: unknown image windows (build it: rackseed image build windows)'),
  a('an unknown tag', 'debian-k0s', 'debian-k0s:stable', 'a.yaml:1:8: image debian-k0s has no tag stable (rackseed image show debian-k0s)'),
  a('an unknown digest', 'debian-k0s', `debian-k0s@sha256:${'9'.repeat(64)}`, 'a.yaml:1:8: image debian-k0s has no sha256:9999999999999999999999999999999999999999999999999999999999999999 (rackseed image show debian-k0s)'),
  a('a short digest', 'debian-k0s', 'debian-k0s@sha256:1234', 'a.yaml:1:8: image: not an image: name, name:tag or name@sha256:<64 hex digits>'),
  a('a path as image', 'debian-k0s', '../debian-k0s', 'a.yaml:1:8: image: not an image: name, name:tag or name@sha256:<64 hex digits>'),
  a('boot with another value', 'image: debian-k0s', 'boot: disk', 'a.yaml:1:7: boot: must be local, not disk'),
  a('boot: local with an image and more', 'vars:', 'boot: local\nvars:', 'a.yaml:1:1: image has no meaning with boot: local', 'a.yaml:2:1: cmdline has no meaning with boot: local', 'a.yaml:3:1: root has no meaning with boot: local', 'a.yaml:4:1: postBoot has no meaning with boot: local', 'a.yaml:5:1: artifacts has no meaning with boot: local', 'a.yaml:7:1: vars has no meaning with boot: local', 'a.yaml:17:1: ssh has no meaning with boot: local', 'a.yaml:18:1: config has no meaning with boot: local', 'a.yaml:19:1: shell has no meaning with boot: local'),
  a('a loader that is none', 'vars:', 'loader: snponl\nvars:', 'a.yaml:6:9: loader: not a loader: auto, undionly, snponly, ipxe, shim, uki, or a file of the loader set, such as ipxe.efi'),
  a('a loader with a path', 'vars:', 'loader: ../ipxe.efi\nvars:', 'a.yaml:6:9: loader: not a loader: auto, undionly, snponly, ipxe, shim, uki, or a file of the loader set, such as ipxe.efi'),
  a('a loader that the set does not have', 'vars:', 'loader: ipxe-arm65.efi\nvars:', 'a.yaml:6:9: the loader set has no ipxe-arm65.efi (did you mean ipxe-arm64.efi?)'),
  a("a node's that it does not have", 'exit: sanboot', 'loader: own.efi', 'a.yaml:14:13: the loader set has no own.efi (rackseed loader list shows what it has)'),
  a('a loader set that is none', 'vars:', 'loaders: ../ipxe\nvars:', 'a.yaml:6:10: loaders: not a loader set: small letters, digits and . _ -, at most 32, and no MAC address'),
  a('a loader set that a TFTP name would take for a node', 'vars:', 'loaders: 52-54-00-12-34-56\nvars:', 'a.yaml:6:10: loaders: not a loader set: small letters, digits and . _ -, at most 32, and no MAC address'),
  a('a loader set that is not there', 'vars:', 'loaders: ipxe-20\nvars:', 'a.yaml:6:10: unknown loader set ipxe-20 (did you mean ipxe-2.0?)'),
  a("a node's that is not there", 'exit: sanboot', 'loaders: grub', 'a.yaml:14:14: unknown loader set grub (add it: rackseed loader add grub PATH)'),
  a('a file that another set has', 'vars:', 'loader: ipxe-arm64.efi\nloaders: ipxe-2.0\nvars:', 'a.yaml:6:9: the loader set ipxe-2.0 has no ipxe-arm64.efi (rackseed loader list shows what it has)'),
  a("the profile's file that the node's set does not have", 'exit: sanboot', 'loaders: ipxe-2.0\nloader: ipxe-arm64.efi', 'a.yaml:14:14: the loader set ipxe-2.0 has no ipxe-arm64.efi (rackseed loader list shows what it has)'),
  a('the name of the UKI as a file', 'vars:', 'loader: uki.efi\nvars:', "a.yaml:6:9: loader: uki.efi is what a node's own UKI is called: write uki for that, or give the file of the loader set another name"),
  a('the loader uki of an image that has none', 'vars:', 'loader: uki\nvars:', 'a.yaml:6:9: image debian-k0s has no UKI (make it: rackseed image uki debian-k0s)'),
  a('the loader shim without its files', 'vars:', 'loader: shim\nvars:', "a.yaml:6:9: loader: shim: shimx64.efi or shimx64.efi.signed is not in the loader set (Debian's package shim-signed has it) (docs/HARDWARE.md says how to get both)"),
  a('what GRUB cannot hand on to the kernel', 'quiet]', 'a=\\b]\nloader: shim', 'a.yaml:2:26: cmdline: a=\\b would reach the kernel with backslashes: GRUB writes one before quotes and backslashes (another loader than shim hands it on)', "a.yaml:3:9: loader: shim: shimx64.efi or shimx64.efi.signed is not in the loader set (Debian's package shim-signed has it) (docs/HARDWARE.md says how to get both)"),
  a("a node's loader shim without them", 'exit: sanboot', 'loader: shim', "a.yaml:14:13: loader: shim: shimx64.efi or shimx64.efi.signed is not in the loader set (Debian's package shim-signed has it) (docs/HARDWARE.md says how to get both)"),
  b('a loader set beside boot: local', 'nodes:', 'loaders: ipxe-2.0\nnodes:', 'b.yaml:2:1: loaders has no meaning with boot: local'),
  b('a loader beside boot: local', 'nodes:', 'loader: ipxe\nnodes:', 'b.yaml:2:1: loader has no meaning with boot: local'),
  a('match', 'vars:', 'match: { labels: { rack: r2 } }\nvars:', 'a.yaml:6:1: match is not supported yet (name each machine under nodes until then)'),
  a('default: true', 'vars:', 'default: true\nvars:', 'a.yaml:6:1: default is not supported yet (name each machine under nodes until then)'),
  a('a command line that is text', '[console=ttyS0, quiet]', 'console=ttyS0 quiet', 'a.yaml:2:10: cmdline: must be a list, such as [a, b], not console=ttyS0 quiet'),
  a('a parameter with a space', 'quiet', '"a b"', 'a.yaml:2:26: cmdline.1: one parameter an entry: no spaces, line breaks, control or non-ASCII characters'),
  a('a parameter with a line break', 'quiet', '"a\\nboot"', 'a.yaml:2:26: cmdline.1: one parameter an entry: no spaces, line breaks, control or non-ASCII characters'),
  a('a parameter with an escape character', 'quiet', '"a\\eb"', 'a.yaml:2:26: cmdline.1: one parameter an entry: no spaces, line breaks, control or non-ASCII characters'),
  a('a parameter that iPXE would expand', 'quiet', '"x=${net0/mac}"', 'a.yaml:2:26: cmdline.1: iPXE would take this for a part of its script: no ${, no leading #, no || or &&'),
  a('a parameter that ends the command', 'quiet', '"||"', 'a.yaml:2:26: cmdline.1: iPXE would take this for a part of its script: no ${, no leading #, no || or &&'),
  a('a parameter that is a comment', 'quiet', '"#x"', 'a.yaml:2:26: cmdline.1: iPXE would take this for a part of its script: no ${, no leading #, no || or &&'),
  a('an empty parameter', 'quiet', '""', 'a.yaml:2:26: cmdline.1: empty parameter'),
  a('a parameter of ours', 'quiet', 'ip=dhcp', 'a.yaml:2:26: cmdline.1: rackseed sets this parameter itself for each boot'),
  a('a parameter cut at its comma', 'ttyS0', 'ttyS0,115200n8', 'a.yaml:2:25: 115200n8 was cut off from its parameter at the comma (quote it: "console=ttyS0,115200n8")'),
  a('a command line that is too long', 'quiet', `x=${'y'.repeat(1500)}`, 'a.yaml:2:10: cmdline has 1516 characters, at most 1500 fit'),
  a('a state that is no state', 'state: none', 'state: /dev/sda', 'a.yaml:3:16: root.state: must be none or LABEL=<label of a file system>'),
  a('a disk without a state', 'state: none', 'disk: pci-0000:00:05.0', 'a.yaml:3:9: root.disk has no meaning without a disk that keeps state (name it: state: LABEL=<label>)'),
  a('all of a disk without a state', 'state: none', 'state: none, format: xfs, wipe: true, onMissing: fail, cache: disk', ...[['format', 22], ['wipe', 35], ['onMissing', 47], ['cache', 64]].map(([key, column]) => `a.yaml:3:${column}: root.${key} has no meaning without a disk that keeps state (name it: state: LABEL=<label>)`)),
  a("a kernel's name as disk", 'state: none', 'state: LABEL=s, disk: sda', 'a.yaml:3:31: root.disk: not a name of /dev/disk/by-path, such as pci-0000:00:05.0'),
  a('a path as disk', 'state: none', 'state: LABEL=s, disk: /dev/disk/by-path/pci-0000:00:05.0', 'a.yaml:3:31: root.disk: not a name of /dev/disk/by-path, such as pci-0000:00:05.0'),
  a('a format of nothing', 'state: none', 'state: LABEL=s, format: ext4', 'a.yaml:3:25: root.format has no meaning without a disk that may be formatted (name it: disk: pci-0000:00:05.0)'),
  a('an unknown format', 'state: none', 'state: LABEL=s, disk: pci-0, format: btrfs', 'a.yaml:3:46: root.format: must be ext4 or xfs, not btrfs'),
  a('a label that XFS cannot have', 'state: none', 'state: LABEL=rackseed-state, disk: pci-0, format: xfs', 'a.yaml:3:9: root.state has a label of more than 12 characters, which XFS cannot have (a shorter label, or format: ext4)'),
  a('a wipe of no disk', 'state: none', 'state: LABEL=s, wipe: true', 'a.yaml:3:25: root.wipe does not say which disk (name it: disk: pci-0000:00:05.0)'),
  a('a cache that is wiped', 'state: none', 'state: LABEL=s, disk: pci-0, cache: disk, wipe: true', 'a.yaml:3:51: root.wipe takes away at each boot what cache: disk keeps (one of both)'),
  a('an answer that is neither yes nor no', 'state: none', 'state: LABEL=s, wipe: yes', 'a.yaml:3:31: root.wipe: must be true or false'),
  a('an unknown way out', 'state: none', 'state: LABEL=s, onMissing: ignore', 'a.yaml:3:36: root.onMissing: must be fail or ephemeral, not ignore'),
  a('a size in words', 'state: none', 'size: 2 GiB', 'a.yaml:3:15: root.size: not a size of a tmpfs, such as 50% or 2g'),
  a('more than all of the RAM', 'state: none', 'size: 150%', 'a.yaml:3:15: root.size: not a size of a tmpfs, such as 50% or 2g'),
  a('a serial that is a date', 'state: none', 'minSerial: 2026-11-21', 'a.yaml:3:20: root.minSerial: not a serial of an image: a whole number'),
  a('a misspelt member of root', 'state: none', 'onmissing: fail', 'a.yaml:3:9: unknown key onmissing (did you mean onMissing?)'),
  a('a private key', '{ keys: [', '{ keys: ["-----BEGIN OPENSSH PRIVATE KEY-----", ', 'a.yaml:16:15: ssh.keys.0: this is a private key: give the public one, the .pub file beside it, and make a new pair, since this one has been shown'),
  a('the name of a key', '{ keys: [', '{ keys: [~/.ssh/id_ed25519.pub, ', 'a.yaml:16:15: ssh.keys.0: this is the name of a file: give the line that stands in it'),
  a('a key that was cut', 'NTE5', '', 'a.yaml:16:15: ssh.keys.0: ssh-ed25519: the base64 is no key of that type, or not all of one'),
  a('one key that is no list', /* of the profile */ 'ssh: { keys: [', 'ssh: { keys: x }\nvars2: { a: [', "a.yaml:16:14: ssh.keys: must be a list, such as [a, b], not x", 'a.yaml:17:1: unknown key vars2 (did you mean vars?)'),
  a("a node's key that is none", 'exit: sanboot', 'ssh: { keys: [hello] }', 'a.yaml:14:19: nodes.n2.ssh.keys.0: not a line of authorized_keys: ssh-ed25519 or ecdsa-sha2-nistp256, … and base64 behind it'),
  a('a path that leaves /config', 'etc/motd:', '../etc/motd:', 'a.yaml:17:11: config.../etc/motd: not a path below /config, such as etc/motd: no leading slash, no .. and no spaces'),
  a('an absolute path', 'etc/motd:', '/etc/motd:', 'a.yaml:17:11: config./etc/motd: not a path below /config, such as etc/motd: no leading slash, no .. and no spaces'),
  a('a path of a dot', 'etc/motd:', 'etc/./motd:', 'a.yaml:17:11: config.etc/./motd: not a path below /config, such as etc/motd: no leading slash, no .. and no spaces'),
  a('keys of images from the network', 'etc/motd:', 'keys/site.pub:', 'a.yaml:17:11: config.keys/site.pub: cannot come from here: whose images a machine trusts is said by its initrd, or by the disk RACKSEED-CONFIG in it'),
  a('ssh keys as a file', 'etc/motd:', 'authorized_keys:', 'a.yaml:17:11: config.authorized_keys: has a key of its own: ssh: { keys: [..] }'),
  a('a private key as a file', 'hello', '"-----BEGIN OPENSSH PRIVATE KEY-----"', 'a.yaml:17:21: config.etc/motd: a private key has no place in a profile: a file of the disk RACKSEED-CONFIG can be one'),
  a('a file without text', 'hello', '[hello]', 'a.yaml:17:21: config.etc/motd: must be one value, not a list'),
  a('a file that is a directory too', 'run.sh:', 'etc:', 'a.yaml:17:11: config: etc is a file, so etc/motd cannot be one in it'),
  a("a node's file that is the profile's directory", 'exit: sanboot', 'config: { etc: x }', 'a.yaml:14:13: nodes.n2.config: etc is a file, so etc/motd cannot be one in it'),
  a('more than is sent', 'hello', `"${'é'.repeat(32768)}"`, 'a.yaml:17:1: config: 65546 bytes in all, at most 65536 fit (what is larger is an artifact: rackseed artifact add)'),
  a("more than is sent, with the profile's", 'exit: sanboot', `config: { big: ${'x'.repeat(65530)} }`, "a.yaml:14:5: nodes.n2.config: 65545 bytes in all with the profile's, at most 65536 fit (what is larger is an artifact: rackseed artifact add)"),
  a('a shell that is perhaps', 'shell: true', 'shell: maybe', 'a.yaml:18:8: shell: must be true or false'),
  a('a parameter that the shell has', 'quiet', 'rackseed.shell=1', 'a.yaml:2:26: cmdline.1: rackseed sets this parameter itself for each boot'),
  a('a parameter that the cache has', 'quiet', 'rackseed.state=LABEL=x', 'a.yaml:2:26: cmdline.1: rackseed sets this parameter itself for each boot'),
  b('ssh keys beside boot: local', 'nodes:', `ssh: { keys: [${KEY}] }\nnodes:`, 'b.yaml:2:1: ssh has no meaning with boot: local'),
  b('config and a shell beside boot: local', 'nodes:', 'config: { a: x }\nshell: true\nnodes:', 'b.yaml:2:1: config has no meaning with boot: local', 'b.yaml:3:1: shell has no meaning with boot: local'),
  a('root that is no map', 'root: { state: none }', 'root: none', 'a.yaml:3:7: root: must be a map, such as { key: value }, not none'),
  a('an unknown repository', 'repo: post-boot', 'repo: postboot', 'a.yaml:4:19: unknown repository postboot (did you mean post-boot?)'),
  a('an unknown ref', 'ref: main', 'ref: mian', 'a.yaml:4:35: repository post-boot has no branch, tag or commit mian'),
  a('a ref that is an option', 'ref: main', 'ref: --upload-pack=x', 'a.yaml:4:35: postBoot.ref: not a branch, tag or commit'),
  a('unknown steps', 'steps: k0s-single', 'steps: k0s-singel', 'a.yaml:4:48: repository post-boot has no steps in k0s-singel at main (did you mean k0s-single?)'),
  a('steps outside of the repository', 'steps: k0s-single', 'steps: ../etc', 'a.yaml:4:48: postBoot.steps: not a directory inside the repository'),
  a('postBoot without a ref', 'ref: main, ', '', 'a.yaml:4:11: postBoot.ref: missing'),
  a('an unknown artifact', '{ k0s:', '{ k0:', 'a.yaml:5:14: unknown artifact k0 (did you mean k0s?)'),
  a('an unknown version', 'v1.36.1+k0s.0', 'v1.36.2+k0s.0', 'a.yaml:5:19: artifact k0s has no version v1.36.2+k0s.0 (did you mean v1.36.1+k0s.0?)'),
  a('a version that is missing', '{ k0s: v1.36.1+k0s.0 }', '{ k0s: }', 'a.yaml:5:19: artifacts.k0s: empty'),
  a('a variable with dashes', 'replicas:', 'max-replicas:', 'a.yaml:6:9: vars.max-replicas: not a variable name: a letter, then letters, digits and underscores'),
  a('a variable over two lines', 'replicas: 3', 'replicas: "3\\n4"', 'a.yaml:6:19: vars.replicas: must be one line without control characters'),
  a('a variable that is a map', 'replicas: 3', 'replicas: { min: 3 }', 'a.yaml:6:19: vars.replicas: must be one value, not a map'),
  a('a label with a space', 'rack: r1', 'rack: row 1', 'a.yaml:8:68: nodes.n1.labels.rack: not a label value: letters, digits and inner . _ -, at most 63'),
  a('nodes as a list', undefined, 'image: debian-k0s\nnodes: [n9]\n', 'a.yaml:2:8: nodes: must be a map, such as { key: value }, not a list'),
  a('a node with nothing', 'nodes:', 'nodes:\n  n0:', 'a.yaml:8:6: nodes.n0: empty'),
  a('a node without MACs', 'macs: [52:54:00:12:34:56], ', '', 'a.yaml:8:7: nodes.n1.macs: missing'),
  a('an empty list of MACs', '[52:54:00:12:34:56]', '[]', 'a.yaml:8:15: nodes.n1.macs: needs at least one MAC'),
  a('one MAC that is no list', '[52:54:00:12:34:56]', '52:54:00:12:34:56', 'a.yaml:8:15: nodes.n1.macs: must be a list, such as [a, b], not 52:54:00:12:34:56'),
  a('a MAC with a wrong digit', '52:54:00:12:34:56', '52:54:00:12:34:5g', 'a.yaml:8:16: nodes.n1.macs.0: not a MAC address, such as 52:54:00:12:34:56'),
  a('a MAC with five parts', '52:54:00:12:34:56', '52:54:00:12:34', 'a.yaml:8:16: nodes.n1.macs.0: not a MAC address, such as 52:54:00:12:34:56'),
  a('a group address as MAC', '52:54:00:12:34:56', '53:54:00:12:34:56', 'a.yaml:8:16: nodes.n1.macs.0: no card can have this address (it is a group address or all zeros)'),
  a('the broadcast address as MAC', '52:54:00:12:34:56', 'ff:ff:ff:ff:ff:ff', 'a.yaml:8:16: nodes.n1.macs.0: no card can have this address (it is a group address or all zeros)'),
  a('a node name in capitals', 'n1:', 'N1:', 'a.yaml:8:3: nodes.N1: not a hostname: lower-case letters, digits and inner dashes, at most 63'),
  a('a node name with an underscore', 'n1:', 'n_1:', 'a.yaml:8:3: nodes.n_1: not a hostname: lower-case letters, digits and inner dashes, at most 63'),
  a('a node name of digits', 'n1:', '11:', 'a.yaml:8:3: nodes.11: cannot be a hostname here: it would be read as an address'),
  a('a node name that ends in a dash', 'n1:', 'n1-:', 'a.yaml:8:3: nodes.n1-: not a hostname: lower-case letters, digits and inner dashes, at most 63'),
  a('a node named localhost', 'n1:', 'localhost:', 'a.yaml:8:3: nodes.localhost: cannot be a hostname here: it would be read as an address'),
  a('an address with 300', '10.77.0.11', '10.77.0.300', 'a.yaml:8:40: nodes.n1.ip: not an IPv4 address, such as 10.77.0.11'),
  a('an address with leading zeros', '10.77.0.11', '10.77.0.011', 'a.yaml:8:40: nodes.n1.ip: not an IPv4 address, such as 10.77.0.11'),
  a('an address with its prefix', '10.77.0.11', '10.77.0.11/24', 'a.yaml:8:40: nodes.n1.ip: not an IPv4 address, such as 10.77.0.11'),
  a('an address of no subnet', '10.77.0.11', '10.78.0.11', 'a.yaml:8:40: ip 10.78.0.11 is in no subnet that we serve: 10.77.0.0/24'),
  a('our own address', '10.77.0.11', '10.77.0.1', 'a.yaml:8:40: ip 10.77.0.1 is our own (serverIp)'),
  a("the router's address", '10.77.0.11', '10.77.0.2', "a.yaml:8:40: ip 10.77.0.2 is the router's"),
  a('the broadcast address', '10.77.0.11', '10.77.0.255', 'a.yaml:8:40: ip 10.77.0.255 is the first or last of 10.77.0.0/24, which no machine can have'),
  a('the network address', '10.77.0.11', '10.77.0.0', 'a.yaml:8:40: ip 10.77.0.0 is the first or last of 10.77.0.0/24, which no machine can have'),
  a('one address for two nodes of a file', '10.77.0.12', '10.77.0.11', 'a.yaml:13:9: ip 10.77.0.11 is taken by node n1, also at a.yaml:8:40'),
  a('one MAC for two nodes of a file, written in two ways', '52:54:00:12:34:57', '52-54-00-12-34-56', 'a.yaml:11:9: mac 52:54:00:12:34:56 is taken by node n1, also at a.yaml:8:16'),
  a('one MAC twice in a node', '02-00-00-00-00-0a', '52:54:00:12:34:57', 'a.yaml:12:9: mac 52:54:00:12:34:57 stands twice, also at a.yaml:11:9'),
  a('a misspelt DHCP option', 'ntp-servers', 'ntp-sever', 'a.yaml:15:16: unknown option ntp-sever (did you mean ntp-servers?)'),
  a('a misspelt DHCP option of a node', '{ interface-mtu: 1400 }', '{ interface-mut: 1400 }', 'a.yaml:8:89: unknown option interface-mut (did you mean interface-mtu?)'),
  a('a DHCP option without a value', '{ interface-mtu: 1400 }', '{ interface-mtu: }', 'a.yaml:8:104: nodes.n1.dhcpOptions.interface-mtu: has no value'),
  a('a DHCP option by name and by number', '{ interface-mtu: 1400 }', '{ interface-mtu: 1400, 26: { type: uint16, value: 1400 } }', 'a.yaml:8:110: option 26 is set twice, also at a.yaml:8:89'),
  a('DHCP options that are a list', '{ interface-mtu: 1400 }', '[interface-mtu]', 'a.yaml:8:87: nodes.n1.dhcpOptions: must be a map, such as { key: value }, not a list'),
  a('an unknown exit', 'sanboot', 'reboot', 'a.yaml:14:11: nodes.n2.exit: must be exit, sanboot, or an .efi file of the disk, such as EFI/debian/shimx64.efi'),
  b('a MAC of another profile', '52:54:00:12:34:58', '52:54:00:12:34:56', 'b.yaml:3:16: mac 52:54:00:12:34:56 is taken by node n1, also at a.yaml:8:16'),
  b('an address of another profile', '10.77.0.13', '10.77.0.12', 'b.yaml:3:40: ip 10.77.0.12 is taken by node n2, also at a.yaml:13:9'),
  b('a node that was copied and not moved', '  n3: { macs: [52:54:00:12:34:58], ip: 10.77.0.13 }', '  n1: { macs: [52:54:00:12:34:56], ip: 10.77.0.11 }', 'b.yaml:3:3: node n1 is taken, also at a.yaml:8:3'),
  b('a misspelt key beside a taken MAC: both are told', '52:54:00:12:34:58], ip', '52:54:00:12:34:56], pi', 'b.yaml:3:16: mac 52:54:00:12:34:56 is taken by node n1, also at a.yaml:8:16', 'b.yaml:3:36: unknown key pi (did you mean ip?)'),
];

/** The good files with one edit; throws when the edit does not fit, so that a table entry cannot quietly test nothing. */
export function broken(entry: Broken, dir = 'boot-profiles'): ProfileFile[] {
  const before = GOOD[entry.file];
  if (entry.from !== undefined && !before.includes(entry.from)) throw new Error(`${entry.what}: ${entry.from} is not in ${entry.file}`);
  const after = entry.from === undefined ? entry.to : before.replace(entry.from, () => entry.to);
  return Object.entries(GOOD).map(([name, text]) => ({ file: `${dir}/${name}`, text: name === entry.file ? after : text }));
}

export function good(dir = 'boot-profiles'): ProfileFile[] {
  return Object.entries(GOOD).map(([name, text]) => ({ file: `${dir}/${name}`, text }));
}
