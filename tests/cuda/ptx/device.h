/* device.h: what a program that is linked with device.cpp may say to it. */
#ifndef NEXTD_TEST_PTX_DEVICE_H
#define NEXTD_TEST_PTX_DEVICE_H

#ifdef __cplusplus
extern "C" {
#endif

/* Names the launches that are enqueued from now on, in EMULATOR_PTX_COUNTS: a word, kept by reference. */
void ptx_device_label(const char *label);

#ifdef __cplusplus
}
#endif

#endif
