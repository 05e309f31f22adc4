"""How good and how fast a codec is, measured on real bytes of real files.

| module      | what it answers or holds                                            |
|-------------|---------------------------------------------------------------------|
| metrics     | how far two pictures are apart (PSNR, MS-SSIM)                      |
| evaluate    | what a codec reaches on these pictures, level by level              |
| anchors     | what JPEG, WebP, AVIF and JPEG XL reach on the same pictures        |
| curves      | what others published on Kodak, by name                             |
| bdrate      | how many percent of rate lie between two curves                     |
| report      | all of that as JSON and as tables                                   |
| figure      | all of that as a drawing                                            |
| benchmark   | where the time goes, beside other codecs in the same rounds         |
| startup     | how long whole commands take in fresh processes                     |
| memory      | how much memory the work takes at its peak                          |
| environment | what times depend on: versions, threads, machine                    |
| synthetic   | a drawn picture of any size                                         |
| tables, watch | rows as text; progress without knowing who shows it               |
"""
